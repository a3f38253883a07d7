/* Operations on two maps of int8 or int16, value by value; an operand of one row, column or channel serves all of them. */

struct combine {
  const struct map *a, *b, *out;
  int32_t (*operation)(const struct combine *layer, int32_t a, int32_t b); /* of steps from the zeros, in steps */
  int32_t a_multiplier, b_multiplier, multiplier;
  int16_t a_zero, b_zero, out_zero, low, high;
  int8_t a_shift, b_shift, shift;
  uint8_t left, wide;
};

static void combine(const void *layer, unsigned from, unsigned until) {
  const struct combine *s = layer;
  const unsigned wide = s->wide, channels = s->out->channels >> wide, width = s->out->width;
  const unsigned a_channels = s->a->channels >> wide, b_channels = s->b->channels >> wide;
  const unsigned a_step = a_channels > 1, b_step = b_channels > 1;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *a = row_of(s->a, s->a->height > 1 ? y : 0), *b = row_of(s->b, s->b->height > 1 ? y : 0);
    int8_t *to = row_of(s->out, y);
    for (unsigned x = 0, i = 0; x < width; ++x) {
      unsigned j = s->a->width > 1 ? x * a_channels : 0, k = s->b->width > 1 ? x * b_channels : 0;
      for (unsigned c = 0; c < channels; ++c, ++i, j += a_step, k += b_step) {
        const int32_t first = value_at(a, j, wide) - s->a_zero, second = value_at(b, k, wide) - s->b_zero;
        set_value(to, i, wide, clamp(s->operation(s, first, second) + s->out_zero, s->low, s->high));
      }
    }
  }
}
