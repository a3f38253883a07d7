/* SVDF: a filter's product with the input joins those of the last runs, and each has a weight by its age. */

struct svdf {
  const struct map *in, *state, *out;
  const int8_t *feature;
  const void *time; /* the oldest first, as wide as the state */
  const int32_t *bias;
  int32_t in_multiplier, out_multiplier;
  uint16_t memory, rank;
  int8_t in_zero, out_zero, in_shift, out_shift;
  uint8_t wide;
};

static void svdf(const void *layer, unsigned from, unsigned until) {
  const struct svdf *s = layer;
  const unsigned wide = s->wide, inputs = (unsigned)s->in->height * s->in->width * s->in->channels;
  const unsigned units = (unsigned)s->out->height * s->out->width * s->out->channels;
  const int32_t high = wide ? 32767 : 127;
  const int8_t *weight = s->feature, *time = s->time;
  int8_t *state = s->state->data;
  unsigned at = 0;
  (void)from, (void)until;
  for (unsigned u = 0; u < units; ++u) {
    uint32_t total = (uint32_t)s->bias[u]; /* the runtime's sums leave 32 bits, too */
    for (unsigned r = 0; r < s->rank; ++r) {
      int32_t sum = 0, value;
      for (unsigned i = 0; i < inputs; ++i) sum += *weight++ * (s->in->data[i] - s->in_zero);
      for (unsigned age = s->memory; age > 0; --age, ++at) {
        value = age > 1 ? value_at(state, at + 1, wide)
                        : clamp(scaled(sum, s->in_multiplier, s->in_shift), -high - 1, high);
        set_value(state, at, wide, value);
        total += (uint32_t)value_at(time, at, wide) * (uint32_t)value;
      }
    }
    s->out->data[u] = (int8_t)clamp(scaled((int32_t)total, s->out_multiplier, s->out_shift) + s->out_zero, -128, 127);
  }
}
