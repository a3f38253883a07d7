/* AVERAGE_POOL_2D over the cells within the map, halves away from zero. */

struct avg_pool {
  const struct map *in, *out;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x;
  int8_t low, high;
};

static void avg_pool(const void *layer, unsigned from, unsigned until) {
  const struct avg_pool *a = layer;
  const unsigned channels = a->out->channels;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(a->out, y);
    for (unsigned x = 0; x < a->out->width; ++x, to += channels)
      for (unsigned c = 0; c < channels; ++c) {
        int32_t sum = 0, count = 0;
        for (unsigned ky = 0; ky < a->kernel_height; ++ky) {
          const unsigned row = y * a->stride_y + ky - a->pad_y; /* wraps where negative */
          if (row >= a->in->height) continue;
          const int8_t *cells = row_of(a->in, row) + c;
          for (unsigned kx = 0; kx < a->kernel_width; ++kx) {
            const unsigned column = x * a->stride_x + kx - a->pad_x;
            if (column < a->in->width) sum += cells[column * channels], ++count;
          }
        }
        to[c] = (int8_t)clamp((sum > 0 ? sum + count / 2 : sum - count / 2) / count, a->low, a->high);
      }
  }
}
