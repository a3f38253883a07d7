/* RSQRT of int16; what is not above zero gives the most. */

struct rsqrt {
  const struct map *in, *out;
  int32_t multiplier;
  int8_t shift;
};

static void rsqrt(const void *layer, unsigned from, unsigned until) {
  const struct rsqrt *r = layer;
  const unsigned n = (unsigned)r->out->width * r->out->channels >> 1;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(r->in, y);
    int8_t *to = row_of(r->out, y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t value = value_at(in, i, 1);
      int right, most = 32767;
      if (value > 0) {
        const int32_t inverse = inverse_root(value, &right);
        most = scaled(product(1 << (20 - right), inverse), r->multiplier, r->shift); /* rounded once */
      }
      set_value(to, i, 1, clamp(most, -32768, 32767));
    }
  }
}
