/* LOGISTIC or TANH of a value in units of a 24th / 2^bits, as int16: straight lines between points of a sigmoid, a 24th
   apart, and its mirror image below 0. Bits are 9 for LOGISTIC; 8 for TANH, which is twice the sigmoid of twice the value,
   less 1. */
static inline int32_t curved(const uint16_t *points, int32_t x, unsigned bits) {
  const unsigned tanh = bits == 8;
  const uint32_t far = (uint32_t)(x < 0 ? -x : x), at = far >> bits, rest = far & ((1u << bits) - 1);
  int32_t value;
  if (at >= 255)
    value = tanh ? 0xFFFF << 8 : 0x7FFF << 10;
  else
    value = ((int32_t)points[at] << bits) + (int32_t)rest * (points[at + 1] - points[at]);
  value -= tanh ? 1 << 23 : 0;
  if (x < 0) value = (tanh ? 0 : 1 << 25) - value - 1;
  return (value + (tanh ? 1 << 7 : 1 << 9)) >> (tanh ? 8 : 10);
}
