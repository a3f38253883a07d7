/* MAX_POOL_2D: cells outside the map never win. */

struct max_pool {
  const struct map *in, *out;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x;
  int8_t low, high;
};

static void max_pool(const void *layer, unsigned from, unsigned until) {
  const struct max_pool *m = layer;
  const unsigned channels = m->out->channels;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(m->out, y);
    for (unsigned x = 0; x < m->out->width; ++x, to += channels) {
      __builtin_memset(to, -128, channels);
      for (unsigned ky = 0; ky < m->kernel_height; ++ky) {
        const unsigned row = y * m->stride_y + ky - m->pad_y; /* wraps where negative */
        if (row >= m->in->height) continue;
        for (unsigned kx = 0; kx < m->kernel_width; ++kx) {
          const unsigned column = x * m->stride_x + kx - m->pad_x;
          if (column >= m->in->width) continue;
          const int8_t *cell = row_of(m->in, row) + column * channels;
          for (unsigned c = 0; c < channels; ++c)
            if (cell[c] > to[c]) to[c] = cell[c];
        }
      }
      for (unsigned c = 0; c < channels; ++c) to[c] = (int8_t)clamp(to[c], m->low, m->high);
    }
  }
}
