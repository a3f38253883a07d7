/* FULLY_CONNECTED, and a convolution of one position. */

/* Returns the sum of a segment, which begins with its length, and moves on in the vector and the code. */
typedef int32_t vector_decoder(const int8_t **in, const uint8_t **code);

struct linear {
  const struct map *in, *out;
  vector_decoder *decode;
  const uint8_t *code;
  const struct filter *filters;
  uint8_t segments;
  int8_t out_zero, low, high;
};

static void linear(const void *layer, unsigned from, unsigned until) {
  const struct linear *l = layer;
  const struct filter *filter = l->filters;
  const uint8_t *code = l->code;
  (void)from, (void)until;
  for (unsigned f = 0; f < l->out->channels; ++f, ++filter) {
    const int8_t *in = l->in->data;
    int32_t sum = 0;
    for (unsigned s = 0; s < l->segments; ++s) sum += l->decode(&in, &code);
    l->out->data[f] = level(sum, filter->bias, filter->multiplier, filter->right, l->out_zero);
  }
  if (clips(l->low, l->high)) clip(l->out->data, l->out->channels, l->low, l->high);
}
