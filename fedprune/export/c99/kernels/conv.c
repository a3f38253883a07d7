/* CONV_2D: windows of eight positions become columns of words, and each filter's code runs over them. */

struct conv {
  const struct map *in, *out;
  decoder *decode;
  const uint8_t *code;
  const struct filter *filters;
  uint16_t group_inputs;     /* channels that a filter reads */
  uint8_t groups, segments, kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int8_t in_zero, out_zero, low, high;
};

/* Writes n words, a column apart, each of one value of a and one of b; returns where the next goes. */
static int32_t *pack(int32_t *to, const int8_t *a, const int8_t *b, unsigned n) {
#ifdef LOADS_UNALIGNED
  for (; n >= 4; n -= 4, a += 4, b += 4, to += 4 * PAIRS) {
    const uint32_t first = four_bytes(a), second = four_bytes(b);
    to[0] = JOINED((int8_t)first, (int8_t)second);
    to[PAIRS] = JOINED((int8_t)(first >> 8), (int8_t)(second >> 8));
    to[2 * PAIRS] = JOINED((int8_t)(first >> 16), (int8_t)(second >> 16));
    to[3 * PAIRS] = JOINED((int8_t)(first >> 24), (int8_t)(second >> 24));
  }
#endif
  for (; n > 0; --n, ++a, ++b, to += PAIRS) *to = JOINED(*a, *b);
  return to;
}

/* One row of a position's window: where it begins, or NULL where it lies outside the map. */
static SMALL const int8_t *window_row(const struct conv *c, unsigned y, unsigned ky) {
  const unsigned row = y * c->stride_y + ky * c->dilation_y - c->pad_y; /* wraps where negative */
  return row < c->in->height ? row_of(c->in, row) : 0;
}

static SMALL void pack_windows(const struct conv *c, unsigned group, const unsigned *y, const unsigned *x, int32_t *to,
                         const int8_t *zeros) {
  const unsigned channels = c->in->channels, reads = c->group_inputs, width = c->in->width;
  const unsigned left[2] = {x[0] * c->stride_x - c->pad_x, x[1] * c->stride_x - c->pad_x};
  const unsigned whole = reads == channels && c->dilation_x == 1 && width >= c->kernel_width ? width - c->kernel_width + 1 : 0;
  for (unsigned ky = 0; ky < c->kernel_height; ++ky) {
    const int8_t *rows[2] = {window_row(c, y[0], ky), window_row(c, y[1], ky)};
    if (rows[0] && rows[1] && left[0] < whole && left[1] < whole) {
      to = pack(to, rows[0] + left[0] * channels, rows[1] + left[1] * channels, c->kernel_width * channels);
      continue;
    }
    for (unsigned kx = 0; kx < c->kernel_width; ++kx) {
      const int8_t *cells[2];
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned at = left[i] + kx * c->dilation_x;
        cells[i] = rows[i] && at < width ? rows[i] + at * channels + group * reads : zeros;
      }
      to = pack(to, cells[0], cells[1], reads);
    }
  }
}

/* Rows from..until of the output. */
static void conv(const void *layer, unsigned from, unsigned until) {
  const struct conv *c = layer;
  const unsigned width = c->out->width, channels = c->out->channels, share = channels / c->groups;
  const unsigned count = (unsigned)c->kernel_height * c->kernel_width * c->group_inputs;
  const int32_t zero = c->out_zero;
  column *columns = (column *)MODEL_SCRATCH;
  int8_t *zeros = (int8_t *)(columns + count + 1);
  unsigned y = from, x = 0;
  __builtin_memset(zeros, c->in_zero, c->group_inputs);
  for (unsigned left = (until - from) * width; left > 0;) {
    const unsigned n = left < TILE ? left : TILE;
    unsigned ys[TILE], xs[TILE];
    int8_t *to[TILE];
    for (unsigned p = 0; p < TILE; ++p) {
      ys[p] = y, xs[p] = x;
      to[p] = row_of(c->out, y) + x * channels;
      if (p + 1 < n && ++x == width) x = 0, ++y; /* what is left over repeats the last position */
    }
    if (++x == width) x = 0, ++y;
    left -= n;
    struct cursor cursor = {0, c->code};
    const struct filter *filter = c->filters;
    for (unsigned group = 0, at = 0; group < c->groups; ++group) {
      for (unsigned p = 0; p < PAIRS; ++p)
        pack_windows(c, group, ys + 2 * p, xs + 2 * p, (int32_t *)columns + p, zeros);
      for (const unsigned last = at + share; at < last; ++at, ++filter) {
        int32_t sums[TILE];
        cursor.at = (const column *)columns;
        c->decode(&cursor, sums);
        for (unsigned s = 1; s < c->segments; ++s) {
          int32_t more[TILE];
          c->decode(&cursor, more);
          for (unsigned p = 0; p < TILE; ++p) sums[p] += more[p];
        }
        const int32_t bias = filter->bias, multiplier = filter->multiplier;
        const int right = filter->right;
        for (unsigned p = 0; p < n; ++p) to[p][at] = level(sums[p], bias, multiplier, right, zero);
      }
    }
    if (clips(c->low, c->high))
      for (unsigned p = 0; p < n; ++p) clip(to[p], channels, c->low, c->high);
  }
}
