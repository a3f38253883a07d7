/* CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED on int16: every weight, sums of 64 bits. */

struct conv16 {
  const struct map *in, *out;
  const int8_t *weights;
  const struct wide_filter *filters;
  uint16_t group_inputs; /* channels that a filter reads */
  uint8_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int16_t low, high;
};

static void conv16(const void *layer, unsigned from, unsigned until) {
  const struct conv16 *c = layer;
  const unsigned channels = c->out->channels / 2u, inputs = c->in->channels / 2u, reads = c->group_inputs;
  const unsigned share = channels / (inputs / reads);
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(c->out, y);
    for (unsigned x = 0, at = 0; x < c->out->width; ++x) {
      const struct wide_filter *filter = c->filters;
      const int8_t *weight = c->weights;
      for (unsigned f = 0; f < channels; ++f, ++filter, ++at) {
        int64_t sum = filter->bias;
        for (unsigned ky = 0; ky < c->kernel_height; ++ky) {
          const unsigned row = y * c->stride_y + ky * c->dilation_y - c->pad_y; /* wraps where negative */
          for (unsigned kx = 0; kx < c->kernel_width; ++kx, weight += reads) {
            const unsigned column = x * c->stride_x + kx * c->dilation_x - c->pad_x;
            if (row >= c->in->height || column >= c->in->width) continue;
            const int8_t *cells = row_of(c->in, row) + 2u * (column * inputs + f / share * reads);
            for (unsigned i = 0; i < reads; ++i) sum += weight[i] * value_at(cells, i, 1);
          }
        }
        sum = (sum * filter->multiplier + ((int64_t)1 << (filter->right - 1))) >> filter->right;
        set_value(to, at, 1, clamp((int32_t)sum, c->low, c->high));
      }
    }
  }
}
