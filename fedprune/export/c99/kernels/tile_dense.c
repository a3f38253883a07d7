/* Every weight, zeros too, in pairs. */
static void tile_dense(struct cursor *cursor, int32_t *sums) {
  const column *at = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * 2;
  SUMS;
  while (code != end) {
    MULTIPLY(at, (int8_t)code[0]);
    MULTIPLY(at, (int8_t)code[1]);
    code += 2;
  }
  STORE_SUMS(sums);
  cursor->at = at;
  cursor->code = code;
}
