/* MEAN over all positions of a map. */

struct mean {
  const struct map *in, *out;
  int32_t multiplier, bias;
  int8_t shift, out_zero;
};

static void mean(const void *layer, unsigned from, unsigned until) {
  const struct mean *m = layer;
  const unsigned channels = m->in->channels;
  (void)from, (void)until;
  for (unsigned c = 0; c < channels; ++c) {
    int32_t sum = m->bias;
    for (unsigned y = 0; y < m->in->height; ++y) {
      const int8_t *cells = row_of(m->in, y) + c;
      for (unsigned x = m->in->width; x > 0; --x, cells += channels) sum += *cells;
    }
    m->out->data[c] = (int8_t)clamp(scaled(sum, m->multiplier, m->shift) + m->out_zero, -128, 127);
  }
}
