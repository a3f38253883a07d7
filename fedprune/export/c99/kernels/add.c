/* ADD of two maps of one shape. */

struct add {
  const struct map *a, *b, *out;
  int32_t a_multiplier, b_multiplier, out_multiplier;
  int8_t a_right, b_right, out_right, a_zero, b_zero, out_zero, low, high;
};

/* An input's steps in units of the sum. */
static inline int32_t steps_of(int32_t value, int32_t multiplier, int right) {
  const int32_t x = product(value * (1 << 20), multiplier);
  return right == 0 ? x : shifted(x, right);
}

static void add(const void *layer, unsigned from, unsigned until) {
  const struct add *s = layer;
  const unsigned n = (unsigned)s->out->width * s->out->channels;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *a = row_of(s->a, y), *b = row_of(s->b, y);
    int8_t *to = row_of(s->out, y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t first = steps_of(a[i] - s->a_zero, s->a_multiplier, s->a_right);
      const int32_t second = steps_of(b[i] - s->b_zero, s->b_multiplier, s->b_right);
      const int32_t sum = shifted(product(first + second, s->out_multiplier), s->out_right) + s->out_zero;
      to[i] = (int8_t)clamp(sum, s->low, s->high);
    }
  }
}
