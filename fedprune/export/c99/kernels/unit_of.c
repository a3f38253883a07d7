/* An operand in units of half the larger scale, `left` bits below it. */
static SMALL int32_t unit_of(int32_t value, unsigned left, int32_t multiplier, int shift) {
  return scaled(value * (1 << left), multiplier, shift);
}
