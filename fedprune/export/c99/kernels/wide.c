/* A convolution of one position on int16: sums of 64 bits, and factors of 16. */

/* Returns the sum of a segment, which begins with its length, and moves on in the vector and the code. */
typedef int32_t wide_decoder(const int16_t **in, const uint8_t **code);

struct wide {
  const struct map *in, *out;
  wide_decoder *decode;
  const uint8_t *code;
  const struct wide_filter *filters;
  uint8_t segments;
  int16_t low, high;
};

static void wide(const void *layer, unsigned from, unsigned until) {
  const struct wide *w = layer;
  const struct wide_filter *filter = w->filters;
  const uint8_t *code = w->code;
  const unsigned filters = w->out->channels / 2u;
  (void)from, (void)until;
  for (unsigned f = 0; f < filters; ++f, ++filter) {
    const int16_t *in = (const int16_t *)(const void *)w->in->data;
    int64_t sum = filter->bias;
    for (unsigned s = 0; s < w->segments; ++s) sum += w->decode(&in, &code);
    sum = (sum * filter->multiplier + ((int64_t)1 << (filter->right - 1))) >> filter->right;
    set_value(w->out->data, f, 1, (int32_t)(sum < w->low ? w->low : sum > w->high ? w->high : sum));
  }
}
