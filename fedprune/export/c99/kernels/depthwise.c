/* DEPTHWISE_CONV_2D with one filter a channel: four channels and two taps at a time. */

struct depthwise {
  const struct map *in, *out;
  const int32_t *weights; /* of each four channels two words for each two taps: one of two channels, then of the others */
  const struct filter *filters;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int8_t in_zero, out_zero, low, high;
};

/* Sums of four channels over cells, each `at` bytes further on. */
#if defined(BY_HAND) && defined(__ARM_FEATURE_DSP)
/* By hand: a compiler keeps too few of these in registers. */
static __attribute__((naked, noinline)) void sums_of_four(const int8_t *const *cells __attribute__((unused)),
                                                          unsigned at __attribute__((unused)),
                                                          const int32_t *weights __attribute__((unused)),
                                                          const int8_t *const *end __attribute__((unused)),
                                                          int32_t *sums __attribute__((unused))) {
  __asm__("push {r3-r11, lr}\n\tmov r4, #0\n\tmov r5, #0\n\tmov r6, #0\n\tmov r7, #0\n"
          "1:\tldrd r8, r9, [r0], #8\n\tldr r8, [r8, r1]\n\tldr r9, [r9, r1]\n\tldrd r11, r12, [r2], #8\n\t"
          "sxtb16 r10, r8\n\tsxtb16 lr, r9\n\tsxtb16 r8, r8, ror #8\n\tsxtb16 r9, r9, ror #8\n\t"
          "pkhbt r3, r10, lr, lsl #16\n\tpkhtb r10, lr, r10, asr #16\n\tsxtb16 lr, r11\n\tsmlad r4, r3, lr, r4\n\t"
          "pkhbt r3, r8, r9, lsl #16\n\tpkhtb r8, r9, r8, asr #16\n\tsxtb16 r11, r11, ror #8\n\tsmlad r5, r3, r11, r5\n\t"
          "sxtb16 lr, r12\n\tsmlad r6, r10, lr, r6\n\tsxtb16 r12, r12, ror #8\n\tsmlad r7, r8, r12, r7\n\t"
          "ldr r3, [sp]\n\tcmp r0, r3\n\tbne 1b\n\t"
          "ldr r0, [sp, #40]\n\tstmia r0, {r4-r7}\n\tpop {r3-r11, pc}");
}
#else
static SMALL void sums_of_four(const int8_t *const *cells, unsigned at, const int32_t *weights, const int8_t *const *end,
                               int32_t *sums) {
  int32_t a = 0, b = 0, c = 0, d = 0;
  for (const int8_t *w = (const int8_t *)weights; cells != end; cells += 2, w += 8) {
    const int8_t *x = cells[0] + at, *y = cells[1] + at;
    a += x[0] * w[0] + y[0] * w[2], b += x[1] * w[1] + y[1] * w[3];
    c += x[2] * w[4] + y[2] * w[6], d += x[3] * w[5] + y[3] * w[7];
  }
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

/* Finds the cells of a window; returns whether all lie within the map. */
static SMALL int find_cells(const struct depthwise *d, unsigned y, unsigned x, const int8_t **cells, const int8_t *zeros) {
  const unsigned channels = d->out->channels;
  int within = 1;
  for (unsigned ky = 0; ky < d->kernel_height; ++ky) {
    const unsigned row = y * d->stride_y + ky * d->dilation_y - d->pad_y; /* wraps where negative */
    const int8_t *cell = row < d->in->height ? row_of(d->in, row) : 0;
    unsigned column = x * d->stride_x - d->pad_x;
    for (unsigned kx = 0; kx < d->kernel_width; ++kx, column += d->dilation_x, ++cells) {
      const int inside = cell && column < d->in->width;
      *cells = inside ? cell + column * channels : zeros;
      within &= inside;
    }
  }
  *cells = zeros; /* of a tap that makes them even, whose weights are zero */
  return within;
}

static void depthwise(const void *layer, unsigned from, unsigned until) {
  const struct depthwise *d = layer;
  const unsigned channels = d->out->channels, taps = (unsigned)d->kernel_height * d->kernel_width;
  const unsigned reach = d->dilation_x * (d->kernel_width - 1u) + 1, width = d->in->width;
  const int32_t zero = d->out_zero;
  const int8_t **cells = (const int8_t **)MODEL_SCRATCH, *const *end = cells + (taps + 1) / 2 * 2;
  int8_t *zeros = (int8_t *)(cells + taps + 1);
  __builtin_memset(zeros, d->in_zero, channels);
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(d->out, y);
    unsigned moved = 0;
    int within = 0;
    for (unsigned x = 0; x < d->out->width; ++x, to += channels) {
      const unsigned left = x * d->stride_x - d->pad_x;
      if (within && left + reach <= width) moved += d->stride_x * channels; /* the same cells, further on */
      else within = find_cells(d, y, x, cells, zeros), moved = 0;
      const int32_t *weights = d->weights;
      const struct filter *filter = d->filters;
      for (unsigned c = 0; c < channels; c += 4, weights += end - cells, filter += 4) {
        int32_t sums[4];
        const unsigned n = channels - c < 4 ? channels - c : 4;
        sums_of_four(cells, moved + c, weights, end, sums);
#define OUTPUT(i) to[c + i] = level(sums[i], filter[i].bias, filter[i].multiplier, filter[i].right, zero)
        if (n == 4) OUTPUT(0), OUTPUT(1), OUTPUT(2), OUTPUT(3);
        else
          for (unsigned i = 0; i < n; ++i) OUTPUT(i);
      }
    }
    if (clips(d->low, d->high)) clip(to - d->out->width * channels, d->out->width * channels, d->low, d->high);
  }
}
