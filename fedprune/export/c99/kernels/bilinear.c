/* RESIZE_BILINEAR: between the four nearest cells, in steps of 1/1024. */

struct bilinear {
  const struct map *in, *out;
  int32_t step_y, start_y, step_x, start_x;
};

/* The lower neighbour of a place, the upper one, and how far the place is from the lower. */
static SMALL int32_t beside(int32_t place, unsigned size, unsigned *at) {
  at[0] = place > 0 ? (unsigned)place >> 10 : 0;
  at[1] = (unsigned)(place + 1023) >> 10; /* no place is as far as 1023 before the first */
  if (at[1] >= size) at[1] = size - 1;
  return place - (int32_t)at[0] * 1024;
}

static void bilinear(const void *layer, unsigned from, unsigned until) {
  const struct bilinear *b = layer;
  const unsigned channels = b->in->channels;
  for (unsigned y = from; y < until; ++y) {
    unsigned rows[2], columns[2];
    const int32_t down = beside((int32_t)y * b->step_y + b->start_y, b->in->height, rows);
    const int8_t *upper = row_of(b->in, rows[0]), *lower = row_of(b->in, rows[1]);
    int8_t *to = row_of(b->out, y);
    for (unsigned x = 0; x < b->out->width; ++x) {
      const int32_t right = beside((int32_t)x * b->step_x + b->start_x, b->in->width, columns);
      const unsigned first = columns[0] * channels, second = columns[1] * channels;
      for (unsigned c = 0; c < channels; ++c) {
        const int32_t above = upper[first + c] * (1024 - right) + upper[second + c] * right;
        const int32_t below = lower[first + c] * (1024 - right) + lower[second + c] * right;
        const int32_t sum = above * (1024 - down) + below * down;
        *to++ = (int8_t)((sum + (sum > 0 ? 1 << 19 : -(1 << 19))) / (1 << 20));
      }
    }
  }
}
