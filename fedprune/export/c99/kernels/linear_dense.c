/* Every weight, zeros too, in pairs. */
static int32_t linear_dense(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code + 1, *end = at + at[-1] * 2;
  int32_t sum = 0;
  for (; at != end; at += 2, *in += 2) sum += (*in)[0] * (int8_t)at[0] + (*in)[1] * (int8_t)at[1];
  *code = at;
  return sum;
}
