/* AVERAGE_POOL_2D, halves away from zero, and MAX_POOL_2D on int16, over the cells within the map. */

struct pool16 {
  const struct map *in, *out;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x, most;
  int16_t low, high;
};

static void pool16(const void *layer, unsigned from, unsigned until) {
  const struct pool16 *p = layer;
  const unsigned channels = p->out->channels / 2u;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(p->out, y);
    for (unsigned i = 0; i < p->out->width * channels; ++i) {
      int32_t sum = 0, count = 0, most = -32768;
      for (unsigned ky = 0; ky < p->kernel_height; ++ky) {
        const unsigned row = y * p->stride_y + ky - p->pad_y; /* wraps where negative */
        if (row >= p->in->height) continue;
        for (unsigned kx = 0; kx < p->kernel_width; ++kx) {
          const unsigned column = i / channels * p->stride_x + kx - p->pad_x;
          if (column >= p->in->width) continue;
          const int32_t value = value_at(row_of(p->in, row), column * channels + i % channels, 1);
          sum += value, ++count;
          if (value > most) most = value;
        }
      }
      if (!p->most) most = count ? (sum > 0 ? sum + count / 2 : sum - count / 2) / count : 0;
      set_value(to, i, 1, clamp(most, p->low, p->high));
    }
  }
}
