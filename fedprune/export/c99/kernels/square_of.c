/* SQUARED_DIFFERENCE. */
static int32_t square_of(const struct combine *s, int32_t a, int32_t b) {
  const int32_t first = unit_of(a, s->left, s->a_multiplier, s->a_shift);
  const int32_t apart = first - unit_of(b, s->left, s->b_multiplier, s->b_shift);
  return scaled(apart * apart, s->multiplier, s->shift);
}
