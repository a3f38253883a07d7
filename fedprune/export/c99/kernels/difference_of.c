/* SUB. */
static int32_t difference_of(const struct combine *s, int32_t a, int32_t b) {
  const int32_t first = unit_of(a, s->left, s->a_multiplier, s->a_shift);
  return scaled(first - unit_of(b, s->left, s->b_multiplier, s->b_shift), s->multiplier, s->shift);
}
