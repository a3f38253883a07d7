/* DIV: by a reciprocal of 31 bits; a division by zero is one by a step. Of a step by many, the reference kernels shift by
   more bits than there are, which gives what the processor makes of it; here it is the quotient. */
static int32_t quotient_of(const struct combine *s, int32_t a, int32_t b) {
  if (a == 0) return 0;
  const uint32_t size = b ? (uint32_t)(b < 0 ? -b : b) : 1;
  const int leading = __builtin_clz(size), spare = __builtin_clz(2 * (uint32_t)(a < 0 ? -a : a) - (a < 0));
  const int32_t inverse = reciprocal((int32_t)((size << leading) - (1u << 31)));
  const int64_t quotient = product(product((int32_t)((uint32_t)a << spare), b < 0 ? -inverse : inverse), s->multiplier);
  const int right = 31 - leading + spare - s->shift;
  return (int32_t)((quotient + ((int64_t)1 << (right - 1)) - (quotient < 0)) >> right);
}
