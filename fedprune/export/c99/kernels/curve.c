/* LOGISTIC and TANH of int16: straight lines between points of a sigmoid, a 24th apart, and its mirror image below 0. */

struct curve {
  const struct map *in, *out;
  const uint16_t *points; /* of the sigmoid, 2^16 times */
  int32_t multiplier;     /* to units of a 24th / 2^bits */
  uint8_t right, bits;    /* 9 for LOGISTIC; 8 for TANH, which is twice the sigmoid of twice the value, less 1 */
};

static void curve(const void *layer, unsigned from, unsigned until) {
  const struct curve *c = layer;
  const unsigned n = (unsigned)c->out->width * c->out->channels / 2u, tanh = c->bits == 8;
  const int32_t zero = tanh ? 1 << 23 : 0, half = tanh ? 1 << 7 : 1 << 9;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(c->in, y);
    int8_t *to = row_of(c->out, y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t x = (value_at(in, i, 1) * c->multiplier + (int32_t)((1u << c->right) >> 1)) >> c->right;
      const uint32_t far = (uint32_t)(x < 0 ? -x : x), at = far >> c->bits, rest = far & ((1u << c->bits) - 1);
      int32_t value;
      if (at >= 255)
        value = tanh ? 0xFFFF << 8 : 0x7FFF << 10;
      else
        value = ((int32_t)c->points[at] << c->bits) + (int32_t)rest * (c->points[at + 1] - c->points[at]);
      value -= zero;
      if (x < 0) value = (tanh ? 0 : 1 << 25) - value - 1;
      set_value(to, i, 1, (value + half) >> (tanh ? 8 : 10));
    }
  }
}
