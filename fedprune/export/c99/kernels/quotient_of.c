/* DIV: by a reciprocal of 31 bits. */
static int32_t quotient_of(const struct combine *s, int32_t a, int32_t b) {
  const uint32_t size = (uint32_t)(b < 0 ? -b : b);
  const int leading = __builtin_clz(size | 1), spare = __builtin_clz((uint32_t)(a < 0 ? ~a : a) | 1) - 1;
  const int32_t inverse = reciprocal((int32_t)((size << leading) - (1u << 31)));
  const int64_t quotient = product(product(a * (1 << spare), b < 0 ? -inverse : inverse), s->multiplier);
  const int right = 31 - leading + spare - s->shift;
  return (int32_t)((quotient + ((int64_t)1 << (right - 1)) - (quotient < 0)) >> right);
}
