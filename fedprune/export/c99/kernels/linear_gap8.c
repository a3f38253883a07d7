/* Two bytes a weight: how many zeros come before it, and its value. */
static int32_t linear_gap8(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code + 1, *end = at + at[-1] * 2;
  const int8_t *cell = *in;
  int32_t sum = 0;
  for (; at != end; at += 2) {
    cell += at[0];
    sum += *cell++ * (int8_t)at[1];
  }
  *code = at;
  *in = cell;
  return sum;
}
