/* Three weights in five bytes: how many zeros come before each, five bits apiece, and their values. */
static void tile_gap5(struct cursor *cursor, int32_t *sums) {
  const column *at = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * 5;
  SUMS;
  while (code != end) {
    at += code[0] & 31;
    MULTIPLY(at, (int8_t)code[2]);
    at += code[1] & 31;
    MULTIPLY(at, (int8_t)code[3]);
    at += (code[0] >> 5) + (code[1] >> 5 << 3);
    MULTIPLY(at, (int8_t)code[4]);
    code += 5;
  }
  STORE_SUMS(sums);
  cursor->at = at;
  cursor->code = code;
}
