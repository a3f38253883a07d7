/* MUL of two maps of one shape, or of a map and one factor a channel. */

struct multiply {
  const struct map *a, *b, *out;
  int32_t multiplier;
  int8_t shift, a_zero, b_zero, out_zero, low, high;
};

static void multiply(const void *layer, unsigned from, unsigned until) {
  const struct multiply *m = layer;
  const unsigned channels = m->out->channels, n = m->out->width * channels;
  const unsigned repeats = m->b->height == 1 && m->b->width == 1 ? channels : n;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *a = row_of(m->a, y), *b = row_of(m->b, m->b->height == 1 ? 0 : y);
    int8_t *to = row_of(m->out, y);
    for (unsigned i = 0, j = 0; i < n; ++i) {
      const int32_t product = (a[i] - m->a_zero) * (b[j] - m->b_zero);
      to[i] = (int8_t)clamp(scaled(product, m->multiplier, m->shift) + m->out_zero, m->low, m->high);
      if (++j == repeats) j = 0;
    }
  }
}
