/* GATHER: rows of a table by int32 tokens; one outside the table stands for its nearest row. */

struct gather {
  const struct map *in, *out;
  const int8_t *table;
  uint32_t rows, length;
};

static void gather(const void *layer, unsigned from, unsigned until) {
  const struct gather *g = layer;
  const unsigned tokens = (unsigned)g->out->width * g->out->channels / g->length;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(g->out, y);
    for (unsigned i = 0; i < tokens; ++i, to += g->length) {
      const int32_t token = clamp((int32_t)four_bytes(g->in->data + 4 * (y * tokens + i)), 0, (int32_t)g->rows - 1);
      const int8_t *row = g->table + (uint32_t)token * g->length;
      for (uint32_t j = 0; j < g->length; ++j) to[j] = row[j];
    }
  }
}
