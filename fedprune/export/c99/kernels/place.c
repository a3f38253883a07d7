/* PAD, CONCATENATION and STRIDED_SLICE: parts of maps, put into places of another that may be filled before. */

struct part {
  const struct map *in;
  uint16_t height, width, channels;          /* how much is copied */
  uint16_t from_y, from_x, from_c, to_y, to_x, to_c;
  uint8_t step_y, step_x, step_c;
};

struct place {
  const struct map *out;
  const struct part *parts;
  uint8_t count, fills;
  int8_t fill;
};

static void place(const void *layer, unsigned from, unsigned until) {
  const struct place *p = layer;
  for (unsigned y = from; y < until; ++y) {
    int8_t *row = row_of(p->out, y);
    if (p->fills) __builtin_memset(row, p->fill, (unsigned)p->out->width * p->out->channels);
    for (unsigned i = 0; i < p->count; ++i) {
      const struct part *part = p->parts + i;
      const unsigned at = y - part->to_y;
      if (at >= part->height) continue;
      const int8_t *source = row_of(part->in, part->from_y + at * part->step_y) + part->from_c;
      int8_t *to = row + part->to_x * p->out->channels + part->to_c;
      for (unsigned x = 0; x < part->width; ++x, to += p->out->channels) {
        const int8_t *cell = source + (part->from_x + x * part->step_x) * part->in->channels;
        for (unsigned c = 0; c < part->channels; ++c) to[c] = cell[c * part->step_c];
      }
    }
  }
}
