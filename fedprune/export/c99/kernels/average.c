/* MEAN of int8 or int16 over any axes: those along which the output has one value. */

struct average {
  const struct map *in, *out;
  int32_t multiplier, bias;
  int16_t out_zero, low, high;
  int8_t shift;
  uint8_t wide;
};

static void average(const void *layer, unsigned from, unsigned until) {
  const struct average *m = layer;
  const unsigned wide = m->wide, channels = m->out->channels >> wide, all = m->in->channels >> wide;
  const unsigned rows = m->out->height > 1 ? 1 : m->in->height, columns = m->out->width > 1 ? 1 : m->in->width;
  const unsigned values = channels > 1 ? 1 : all;
  for (unsigned y = from; y < until; ++y)
    for (unsigned x = 0, i = 0; x < m->out->width; ++x)
      for (unsigned c = 0; c < channels; ++c, ++i) {
        int32_t sum = m->bias;
        for (unsigned row = 0; row < rows; ++row) {
          const int8_t *in = row_of(m->in, y + row);
          for (unsigned column = 0; column < columns; ++column)
            for (unsigned at = (x + column) * all + c, last = at + values; at < last; ++at) sum += value_at(in, at, wide);
        }
        const int32_t value = scaled(sum, m->multiplier, m->shift) + m->out_zero;
        set_value(row_of(m->out, y), i, wide, clamp(value, m->low, m->high));
      }
}
