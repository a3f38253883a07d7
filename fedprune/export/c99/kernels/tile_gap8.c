/* Two bytes a weight: how many zeros come before it, and its value. */
static void tile_gap8(struct cursor *cursor, int32_t *sums) {
  const column *at = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * 2;
  SUMS;
  while (code != end) {
    at += code[0];
    MULTIPLY(at, (int8_t)code[1]);
    code += 2;
  }
  STORE_SUMS(sums);
  cursor->at = at;
  cursor->code = code;
}
