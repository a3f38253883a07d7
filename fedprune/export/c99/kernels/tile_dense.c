/* Every weight, zeros too, in pairs. */
#ifdef DECODER
DECODER(tile_dense,
        "add lr, r1, r2, lsl #1\n\tcmp r1, lr\n\tbeq 2f\n1:\t"
        "ldrsb r2, [r1], #1\n\t" MULTIPLY
        "ldrsb r2, [r1], #1\n\t" MULTIPLY
        "cmp r1, lr\n\tbne 1b\n2:\t")
#else
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
#endif
