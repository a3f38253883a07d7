/* RESIZE_NEAREST_NEIGHBOR, GATHER, MIRROR_PAD and their like: for each row, column and channel the one that is read. */

struct pick {
  const struct map *in, *out;
  const uint16_t *rows, *columns, *channels; /* no channels: all of them, in order */
};

static void pick(const void *layer, unsigned from, unsigned until) {
  const struct pick *p = layer;
  const unsigned channels = p->out->channels;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(p->in, p->rows[y]);
    int8_t *to = row_of(p->out, y);
    for (unsigned x = 0; x < p->out->width; ++x, to += channels) {
      const int8_t *cell = in + p->columns[x] * p->in->channels;
      for (unsigned c = 0; c < channels; ++c) to[c] = cell[p->channels ? p->channels[c] : c];
    }
  }
}
