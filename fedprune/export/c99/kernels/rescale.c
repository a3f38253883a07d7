/* QUANTIZE from int8 or int16 to the other, or to another scale of int16; RELU and RELU6 of int16. */

struct rescale {
  const struct map *in, *out;
  int32_t multiplier;
  int16_t in_zero, out_zero, low, high;
  int8_t shift;
  uint8_t in_wide, out_wide;
};

static void rescale(const void *layer, unsigned from, unsigned until) {
  const struct rescale *r = layer;
  const unsigned n = (unsigned)r->out->width * r->out->channels >> r->out_wide;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(r->in, y);
    int8_t *to = row_of(r->out, y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t value = scaled(value_at(in, i, r->in_wide) - r->in_zero, r->multiplier, r->shift) + r->out_zero;
      set_value(to, i, r->out_wide, clamp(value, r->low, r->high));
    }
  }
}
