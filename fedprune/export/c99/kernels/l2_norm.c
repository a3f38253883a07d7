/* L2_NORMALIZATION of the channels of each position, in steps of 1/128. */

struct l2_norm {
  const struct map *in, *out;
  int8_t in_zero;
};

static void l2_norm(const void *layer, unsigned from, unsigned until) {
  const struct l2_norm *l = layer;
  const unsigned channels = l->out->channels;
  for (unsigned y = from; y < until; ++y)
    for (unsigned x = 0; x < l->out->width; ++x) {
      const int8_t *in = row_of(l->in, y) + x * channels;
      int8_t *to = row_of(l->out, y) + x * channels;
      int32_t sum = 0;
      int right;
      for (unsigned c = 0; c < channels; ++c) sum += (in[c] - l->in_zero) * (in[c] - l->in_zero);
      const int32_t inverse = inverse_root(sum > 0 ? sum : 1, &right);
      right -= 7;
      for (unsigned c = 0; c < channels; ++c) {
        const int32_t value = in[c] - l->in_zero;
        const int32_t share = right > 0 ? shifted(product(value, inverse), right) : product(value * (1 << -right), inverse);
        to[c] = (int8_t)clamp(share, -128, 127);
      }
    }
}
