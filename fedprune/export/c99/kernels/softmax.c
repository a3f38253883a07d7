/* SOFTMAX over the channels of each position: a table of exponentials, and a reciprocal by Newton's method. */

struct softmax {
  const struct map *in, *out;
  const int32_t *exponentials; /* of 0, -1, ... steps below the largest, over 2^31; `count` of them are not nothing */
  uint16_t count;
};

/* x / 2^right, halves upwards, of what may be as large as 2^31 - 1. */
static inline uint32_t part_of(int32_t x, int right) { return ((uint32_t)x + (1u << (right - 1))) >> right; }

static void softmax(const void *layer, unsigned from, unsigned until) {
  const struct softmax *s = layer;
  const unsigned channels = s->out->channels;
  for (unsigned y = from; y < until; ++y)
    for (unsigned x = 0; x < s->out->width; ++x) {
      const int8_t *in = row_of(s->in, y) + x * channels;
      int8_t *to = row_of(s->out, y) + x * channels;
      int32_t most = -128;
      uint32_t sum = 0;
      for (unsigned c = 0; c < channels; ++c) most = in[c] > most ? in[c] : most;
      for (unsigned c = 0; c < channels; ++c)
        if (most - in[c] < s->count) sum += part_of(s->exponentials[most - in[c]], 12);
      const int leading = __builtin_clz(sum);
      const int32_t scale = reciprocal((int32_t)((sum << leading) - (1u << 31)));
      for (unsigned c = 0; c < channels; ++c) {
        const int32_t steps = most - in[c];
        const uint32_t share = steps < s->count ? part_of(product(scale, s->exponentials[steps]), 12 - leading + 23) : 0;
        to[c] = (int8_t)clamp((int32_t)share - 128, -128, 127);
      }
    }
}
