/* Three weights in five bytes: how many zeros come before each, five bits apiece, and their values. */
static int32_t linear_gap5(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code + 1, *end = at + at[-1] * 5;
  const int8_t *cell = *in;
  int32_t sum = 0;
  for (; at != end; at += 5) {
    const unsigned gaps = at[0] | at[1] << 8;
    cell += gaps & 31;
    sum += *cell++ * (int8_t)at[2];
    cell += gaps >> 5 & 31;
    sum += *cell++ * (int8_t)at[3];
    cell += gaps >> 10;
    sum += *cell++ * (int8_t)at[4];
  }
  *code = at;
  *in = cell;
  return sum;
}
