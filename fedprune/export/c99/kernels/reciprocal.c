/* 1 / (1 + x) over 2^31, for x over 2^31 in [0, 1). */
static SMALL int32_t reciprocal(int32_t x) {
  const int32_t half = (int32_t)(((int64_t)x + 2147483647 + 1) / 2);
  int32_t estimate = 1515870810 + product(half, -1010580540); /* 48/17 - 32/17 half, over 2^29 */
  for (unsigned i = 0; i < 3; ++i) estimate += product(estimate, (1 << 29) - product(half, estimate)) * 4;
  return estimate > 1073741823 ? 2147483647 : estimate * 2;
}
