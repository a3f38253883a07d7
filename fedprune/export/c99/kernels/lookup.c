/* An operation on each value by itself: a table of its 256 results. */

struct lookup {
  const struct map *in, *out;
  const int8_t *table;
};

static void lookup(const void *layer, unsigned from, unsigned until) {
  const struct lookup *l = layer;
  const unsigned n = (unsigned)l->out->width * l->out->channels;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *in = row_of(l->in, y);
    int8_t *to = row_of(l->out, y);
    for (unsigned i = 0; i < n; ++i) to[i] = l->table[in[i] + 128];
  }
}
