/* Two weights in three bytes: how many zeros come before each, four bits apiece, and their values. */
static void tile_gap4(struct cursor *cursor, int32_t *sums) {
  const column *at = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * 3;
  SUMS;
  while (code != end) {
    at += code[0] & 15;
    MULTIPLY(at, (int8_t)code[1]);
    at += code[0] >> 4;
    MULTIPLY(at, (int8_t)code[2]);
    code += 3;
  }
  STORE_SUMS(sums);
  cursor->at = at;
  cursor->code = code;
}
