/* LOG_SOFTMAX over the channels of each position: steps below the largest less the logarithm of their exponentials' sum. */

struct log_softmax {
  const struct map *in, *out;
  const int32_t *exponentials; /* of 0, -1, ... steps below the largest, over 2^31; `count` of them are not nothing */
  int32_t multiplier;
  uint16_t count;
  uint8_t left;
};

static inline int32_t at_most_one(int64_t x) { return x > 2147483647 ? 2147483647 : (int32_t)x; }

/* log(x / 2^19) over 2^26, for x from 2^19 on: a power of two, or of two and a half of one, and a quotient near it. */
static SMALL int32_t logarithm(int32_t x) {
  const int32_t root = 1518500250, fourth = 1805811301; /* of a half, over 2^31 */
  const int leading = __builtin_clz((uint32_t)x), other = __builtin_clz((uint32_t)product(x, root)) - 1;
  const int32_t whole = (12 - leading) * (1 << 25) + (1 << 23), half = (12 - other) * (1 << 25) - (1 << 23);
  const int32_t near = at_most_one((int64_t)product(x << (leading - 1), root) * 2), far = at_most_one((int64_t)x << other);
  const int32_t r = near < far ? near : far, power = whole > half ? whole : half;
  const int32_t middle = (int32_t)(((int64_t)r + fourth + 1) / 2), q = (r - fourth) * 2, square = product(q, q);
  const int32_t above = product(q, r) + product(product(q, square), 117049297);
  const int32_t below = product(middle, 1057819769 + q + product(127690142, square)) + product(638450708, q);
  return (product(power, 1488522236) + shifted(product(above, reciprocal(below)), 6)) * 2;
}

static void log_softmax(const void *layer, unsigned from, unsigned until) {
  const struct log_softmax *s = layer;
  const unsigned channels = s->out->channels;
  for (unsigned y = from; y < until; ++y)
    for (unsigned x = 0; x < s->out->width; ++x) {
      const int8_t *in = row_of(s->in, y) + x * channels;
      int8_t *to = row_of(s->out, y) + x * channels;
      int32_t most = -128, sum = 0;
      for (unsigned c = 0; c < channels; ++c) most = in[c] > most ? in[c] : most;
      for (unsigned c = 0; c < channels; ++c)
        if (most - in[c] < s->count) sum += (int32_t)(((uint32_t)s->exponentials[most - in[c]] + (1u << 11)) >> 12);
      const int32_t less = logarithm(sum);
      for (unsigned c = 0; c < channels; ++c) {
        const int32_t steps = most - in[c];
        int32_t apart = -(1 << 30); /* so far that the least is given */
        if (steps < s->count) apart = clamp(product((int32_t)((uint32_t)-steps << s->left), s->multiplier), apart, 0);
        to[c] = (int8_t)clamp(shifted(apart - less, 22) + 127, -128, 127);
      }
    }
}
