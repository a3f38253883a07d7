/* PRELU, and LEAKY_RELU of int16: a value below zero is multiplied by its slope. */
static int32_t leak_of(const struct combine *s, int32_t a, int32_t b) {
  return a >= 0 ? scaled(a, s->a_multiplier, s->a_shift) : scaled(a * b, s->multiplier, s->shift);
}
