/* SUM, MEAN, REDUCE_MAX and REDUCE_MIN over rows, columns, channels or several of them. */

struct reduce {
  const struct map *in, *out;
  int32_t multiplier, bias;
  int8_t shift, out_zero, most; /* 1: the largest, -1: the least, 0: the sum */
  uint8_t over;                 /* 1: rows, 2: columns, 4: channels */
};

static void reduce(const void *layer, unsigned from, unsigned until) {
  const struct reduce *r = layer;
  const struct map *in = r->in;
  const unsigned rows = r->over & 1 ? in->height : 1, columns = r->over & 2 ? in->width : 1;
  const unsigned channels = r->over & 4 ? in->channels : 1;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(r->out, y);
    for (unsigned x = 0; x < r->out->width; ++x)
      for (unsigned c = 0; c < r->out->channels; ++c) {
        int32_t found = r->most ? -128 * r->most : r->bias;
        for (unsigned v = 0; v < rows; ++v) {
          const int8_t *cells = row_of(in, y + v) + x * in->channels + c;
          for (unsigned u = 0; u < columns; ++u, cells += in->channels)
            for (unsigned k = 0; k < channels; ++k) {
              const int32_t value = cells[k];
              if (r->most == 0) found += value;
              else if (r->most > 0 ? value > found : value < found) found = value;
            }
        }
        *to++ = (int8_t)(r->most ? found : clamp(scaled(found, r->multiplier, r->shift) + r->out_zero, -128, 127));
      }
  }
}
