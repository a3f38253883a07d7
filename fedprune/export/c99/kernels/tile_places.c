/* Four weights in 4 + BITS / 2 bytes: which of its group of WIDTH columns each is, BITS bits apiece, and their values.
   Of every group there are KEPT. */
#if defined(DECODER) && WIDTH == 4
DECODER(tile_places, /* groups begin at multiples of their size, so that a place is two bits of an address */
        "add r2, r2, r2, lsl #2\n\tadd r2, r2, r1\n\tpush {r2}\n\tb 2f\n1:\tldrb lr, [r1], #5\n\t"
        "bfi r0, lr, #4, #2\n\tlsr lr, lr, #2\n\tldrsb r2, [r1, #-4]\n\t" MULTIPLY_AT("0")
        "bfi r0, lr, #4, #2\n\tlsr lr, lr, #2\n\tldrsb r2, [r1, #-3]\n\t" MULTIPLY_AT("1 / KEPT * 64")
        "bfi r0, lr, #4, #2\n\tlsr lr, lr, #2\n\tldrsb r2, [r1, #-2]\n\t" MULTIPLY_AT("2 / KEPT * 64")
        "bfi r0, lr, #4, #2\n\tldrsb r2, [r1, #-1]\n\t" MULTIPLY_AT("3 / KEPT * 64")
        "add r0, r0, #(4 / KEPT * 64)\n2:\tldr r3, [sp]\n\tcmp r1, r3\n\tbne 1b\n\tadd sp, #4\n\t")
#elif defined(DECODER)
DECODER(tile_places,
        "add r2, r2, r2, lsl #1\n\tadd r2, r1, r2, lsl #1\n\tpush {r2}\n\tb 2f\n1:\tldrh lr, [r1], #6\n\t"
        "and r3, lr, #15\n\tldrsb r2, [r1, #-4]\n\t" MULTIPLY_PLACE("0")
        "ubfx r3, lr, #4, #4\n\tldrsb r2, [r1, #-3]\n\t" MULTIPLY_PLACE("1 / KEPT * 256")
        "ubfx r3, lr, #8, #4\n\tldrsb r2, [r1, #-2]\n\t" MULTIPLY_PLACE("2 / KEPT * 256")
        "lsr r3, lr, #12\n\tldrsb r2, [r1, #-1]\n\t" MULTIPLY_PLACE("3 / KEPT * 256")
        "add r0, r0, #(4 / KEPT * 256)\n2:\tldr r3, [sp]\n\tcmp r1, r3\n\tbne 1b\n\tadd sp, #4\n\t")
#else
static void tile_places(struct cursor *cursor, int32_t *sums) {
  const column *group = cursor->at;
  const uint8_t *code = cursor->code + 1, *end = code + code[-1] * (4 + BITS / 2);
  SUMS;
  for (; code != end; code += 4 + BITS / 2, group += 4 / KEPT * WIDTH) {
    const unsigned chosen = code[0] | code[1] << 8;
    for (unsigned i = 0; i < 4; ++i) {
      const column *at = group + i / KEPT * WIDTH + (chosen >> i * BITS & (WIDTH - 1));
      MULTIPLY(at, (int8_t)code[BITS / 2 + i]);
    }
  }
  STORE_SUMS(sums);
  cursor->at = group;
  cursor->code = code;
}
#endif
