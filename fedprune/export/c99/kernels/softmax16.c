/* SOFTMAX of int16 over the channels: exponentials and the inverse of their sum, on lines between points. */

struct softmax16 {
  const struct map *in, *out;
  const int16_t *exponentials, *inverses; /* of -10 to 0; of 1 to 2 */
  int32_t multiplier;
  int8_t shift;
};

static SMALL int32_t between(const int16_t *points, int32_t x) {
  x = clamp(x, -32768, 32767) + 32768;
  const int16_t *at = points + (x >> 7);
  return at[0] + (((at[1] - at[0]) * (x & 127) + 64) >> 7);
}

static void softmax16(const void *layer, unsigned from, unsigned until) {
  const struct softmax16 *s = layer;
  const unsigned channels = s->out->channels / 2u;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(s->in, y);
    int8_t *to = row_of(s->out, y);
    for (unsigned x = 0; x < s->out->width; ++x, in += 2u * channels, to += 2u * channels) {
      int32_t most = -32768;
      uint32_t sum = 0;
      int zeros = 1;
      for (unsigned c = 0; c < channels; ++c)
        if (value_at(in, c, 1) > most) most = value_at(in, c, 1);
      for (unsigned c = 0; c < channels; ++c) {
        const int32_t power = scaled(value_at(in, c, 1) - most, s->multiplier, s->shift) + 32767;
        set_value(to, c, 1, between(s->exponentials, power));
        sum += (uint32_t)value_at(to, c, 1);
      }
      while (zeros < 31 && !(sum >> (31 - zeros))) ++zeros;
      const int32_t part = (int32_t)((((int64_t)sum << (zeros - 1)) + (1 << 13)) >> 14);
      const int32_t inverse = between(s->inverses, part - 98304);
      const int right = 31 - zeros;
      for (unsigned c = 0; c < channels; ++c) {
        const int64_t share = (int64_t)value_at(to, c, 1) * inverse + (right ? (int64_t)1 << (right - 1) : 0);
        set_value(to, c, 1, clamp((int32_t)(share >> right), 0, 32767));
      }
    }
  }
}
