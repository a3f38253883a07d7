/* Two weights in three bytes: how many zeros come before each, four bits apiece, and their values. */
#ifdef DECODER
DECODER(tile_gap4,
        "add lr, r2, r2, lsl #1\n\tadd lr, lr, r1\n\tcmp r1, lr\n\tbeq 2f\n1:\t"
        "ldrb r3, [r1]\n\tand r3, r3, #15\n\tadd r0, r0, r3, lsl #4\n\tldrsb r2, [r1, #1]\n\t" MULTIPLY
        "ldrb r3, [r1], #3\n\tand r3, r3, #240\n\tadd r0, r0, r3\n\tldrsb r2, [r1, #-1]\n\t" MULTIPLY
        "cmp r1, lr\n\tbne 1b\n2:\t")
#else
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
#endif
