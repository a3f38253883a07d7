/* Two bytes a weight: how many zeros come before it, and its value. */
#ifdef DECODER
DECODER(tile_gap8,
        "add lr, r1, r2, lsl #1\n\tcmp r1, lr\n\tbeq 2f\n1:\t"
        "ldrb r3, [r1], #1\n\tadd r0, r0, r3, lsl #4\n\tldrsb r2, [r1], #1\n\t" MULTIPLY
        "cmp r1, lr\n\tbne 1b\n2:\t")
#else
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
#endif
