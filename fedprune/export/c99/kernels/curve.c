/* LOGISTIC and TANH of int16. */

struct curve {
  const struct map *in, *out;
  const uint16_t *points; /* of the sigmoid, 2^16 times */
  int32_t multiplier;     /* to units of a 24th / 2^bits */
  uint8_t right, bits;
};

static void curve(const void *layer, unsigned from, unsigned until) {
  const struct curve *c = layer;
  const unsigned n = (unsigned)c->out->width * c->out->channels / 2u;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(c->in, y);
    int8_t *to = row_of(c->out, y);
    for (unsigned i = 0; i < n; ++i) {
      const int32_t x = (value_at(in, i, 1) * c->multiplier + (int32_t)((1u << c->right) >> 1)) >> c->right;
      set_value(to, i, 1, curved(c->points, x, c->bits));
    }
  }
}
