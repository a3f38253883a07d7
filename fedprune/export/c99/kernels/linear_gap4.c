/* Two weights in three bytes: how many zeros come before each, four bits apiece, and their values. */
static int32_t linear_gap4(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code + 1, *end = at + at[-1] * 3;
  const int8_t *cell = *in;
  int32_t sum = 0;
  for (; at != end; at += 3) {
    cell += at[0] & 15;
    sum += *cell++ * (int8_t)at[1];
    cell += at[0] >> 4;
    sum += *cell++ * (int8_t)at[2];
  }
  *code = at;
  *in = cell;
  return sum;
}
