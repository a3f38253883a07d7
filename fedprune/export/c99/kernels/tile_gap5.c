/* Three weights in five bytes: how many zeros come before each, five bits apiece, and their values. */
#ifdef DECODER
DECODER(tile_gap5,
        "add r2, r2, r2, lsl #2\n\tadd r2, r2, r1\n\tpush {r2}\n\tcmp r1, r2\n\tbeq 2f\n1:\t"
        "ldrh lr, [r1], #5\n\tand r3, lr, #31\n\tadd r0, r0, r3, lsl #4\n\tldrsb r2, [r1, #-3]\n\t" MULTIPLY
        "ubfx r3, lr, #5, #5\n\tadd r0, r0, r3, lsl #4\n\tldrsb r2, [r1, #-2]\n\t" MULTIPLY
        "lsr r3, lr, #10\n\tadd r0, r0, r3, lsl #4\n\tldrsb r2, [r1, #-1]\n\t" MULTIPLY
        "ldr r3, [sp]\n\tcmp r1, r3\n\tbne 1b\n2:\tadd sp, #4\n\t")
#else
static void tile_gap5(struct cursor *cursor, int32_t *sums) {
  const column *at = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * 5;
  SUMS;
  while (code != end) {
    const unsigned gaps = code[0] | code[1] << 8;
    at += gaps & 31;
    MULTIPLY(at, (int8_t)code[2]);
    at += gaps >> 5 & 31;
    MULTIPLY(at, (int8_t)code[3]);
    at += gaps >> 10;
    MULTIPLY(at, (int8_t)code[4]);
    code += 5;
  }
  STORE_SUMS(sums);
  cursor->at = at;
  cursor->code = code;
}
#endif
