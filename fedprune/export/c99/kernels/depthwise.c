/* DEPTHWISE_CONV_2D with one filter a channel: four channels at a time. */

struct depthwise {
  const struct map *in, *out;
  const int8_t *weights;     /* (taps, channels) */
  const struct filter *filters;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int8_t in_zero, out_zero, low, high;
};

#ifdef __ARM_FEATURE_DSP
#include <arm_acle.h>
/* Adds the products of four channels. */
static inline void multiply_four(int32_t *sums, const int8_t *in, const int8_t *weights) {
  const uint32_t x = four_bytes(in), w = four_bytes(weights);
  const int16x2_t x02 = __sxtb16(x), x13 = __sxtb16(x >> 8 | x << 24), w02 = __sxtb16(w), w13 = __sxtb16(w >> 8 | w << 24);
  sums[0] = __smlabb(x02, w02, sums[0]);
  sums[1] = __smlabb(x13, w13, sums[1]);
  sums[2] = __smlatt(x02, w02, sums[2]);
  sums[3] = __smlatt(x13, w13, sums[3]);
}
#else
static inline void multiply_four(int32_t *sums, const int8_t *in, const int8_t *weights) {
  for (unsigned i = 0; i < 4; ++i) sums[i] += in[i] * weights[i];
}
#endif

static void depthwise(const void *layer, unsigned from, unsigned until) {
  const struct depthwise *d = layer;
  const unsigned channels = d->out->channels, taps = (unsigned)d->kernel_height * d->kernel_width;
  const int32_t zero = d->out_zero;
  const int8_t **cells = (const int8_t **)MODEL_SCRATCH;
  int8_t *zeros = (int8_t *)(cells + taps);
  __builtin_memset(zeros, d->in_zero, channels);
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(d->out, y);
    for (unsigned x = 0; x < d->out->width; ++x, to += channels) {
      unsigned t = 0;
      for (unsigned ky = 0; ky < d->kernel_height; ++ky) {
        const unsigned row = y * d->stride_y + ky * d->dilation_y - d->pad_y; /* wraps where negative */
        const int8_t *cell = row < d->in->height ? row_of(d->in, row) : 0;
        for (unsigned kx = 0; kx < d->kernel_width; ++kx) {
          const unsigned column = x * d->stride_x + kx * d->dilation_x - d->pad_x;
          cells[t++] = cell && column < d->in->width ? cell + column * channels : zeros;
        }
      }
      unsigned c = 0;
      while (c < channels) {
        int32_t sums[4] = {0};
        const unsigned n = channels - c < 4 ? channels - c : 4;
        const int8_t *weights = d->weights + c;
        if (n == 4)
          for (t = 0; t < taps; ++t, weights += channels) multiply_four(sums, cells[t] + c, weights);
        else
          for (t = 0; t < taps; ++t, weights += channels)
            for (unsigned i = 0; i < n; ++i) sums[i] += cells[t][c + i] * weights[i];
        for (unsigned i = 0; i < n; ++i, ++c) {
          const struct filter *filter = d->filters + c;
          to[c] = level(sums[i], filter->bias, filter->multiplier, filter->shift, zero);
        }
      }
    }
    if (clips(d->low, d->high)) clip(to - d->out->width * channels, d->out->width * channels, d->low, d->high);
  }
}
