/* Four weights in 4 + BITS / 2 bytes: which of its group of WIDTH inputs each is, BITS bits apiece, and their values.
   Of every group there are KEPT. */
static int32_t linear_places(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code + 1, *end = at + at[-1] * (4 + BITS / 2);
  const int8_t *group = *in;
  int32_t sum = 0;
  for (; at != end; at += 4 + BITS / 2, group += 4 / KEPT * WIDTH) {
    const unsigned chosen = BITS == 2 ? at[0] : at[0] | at[1] << 8;
    sum += group[chosen & (WIDTH - 1)] * (int8_t)at[BITS / 2];
    sum += group[1 / KEPT * WIDTH + (chosen >> BITS & (WIDTH - 1))] * (int8_t)at[BITS / 2 + 1];
    sum += group[2 / KEPT * WIDTH + (chosen >> 2 * BITS & (WIDTH - 1))] * (int8_t)at[BITS / 2 + 2];
    sum += group[3 / KEPT * WIDTH + (chosen >> 3 * BITS & (WIDTH - 1))] * (int8_t)at[BITS / 2 + 3];
  }
  *code = at;
  *in = group;
  return sum;
}
