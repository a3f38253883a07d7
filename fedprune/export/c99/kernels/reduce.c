/* SUM, MEAN, REDUCE_MAX and REDUCE_MIN over rows, columns, channels or several of them. */

struct reduce {
  const struct map *in, *out;
  int32_t multiplier, bias;
  int8_t shift, out_zero, most; /* 1: the largest, -1: the least, 0: the sum */
  uint8_t over, wide;           /* 1: rows, 2: columns, 4: channels; 1: int16 */
};

static void reduce(const void *layer, unsigned from, unsigned until) {
  const struct reduce *r = layer;
  const struct map *in = r->in;
  const unsigned wide = r->wide, all = in->channels >> wide, kept = r->out->channels >> wide;
  const unsigned rows = r->over & 1 ? in->height : 1, columns = r->over & 2 ? in->width : 1;
  const unsigned channels = r->over & 4 ? all : 1;
  const int32_t limit = wide ? 32768 : 128;
  for (unsigned y = from; y < until; ++y)
    for (unsigned x = 0, i = 0; x < r->out->width; ++x)
      for (unsigned c = 0; c < kept; ++c, ++i) {
        int32_t found = r->most ? -limit * r->most : r->bias;
        for (unsigned v = 0; v < rows; ++v) {
          const int8_t *row = row_of(in, y + v);
          unsigned at = x * all + c;
          for (unsigned u = 0; u < columns; ++u, at += all)
            for (unsigned k = 0; k < channels; ++k) {
              const int32_t value = value_at(row, at + k, wide);
              if (r->most == 0) found += value;
              else if (r->most > 0 ? value > found : value < found) found = value;
            }
        }
        if (!r->most) found = clamp(scaled(found, r->multiplier, r->shift) + r->out_zero, -limit, limit - 1);
        set_value(row_of(r->out, y), i, wide, found);
      }
}
