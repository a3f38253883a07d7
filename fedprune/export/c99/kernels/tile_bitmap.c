/* A byte for each eight columns, its highest bit for the first, then the weights that are not zero. */
#ifdef DECODER
DECODER(tile_bitmap, /* a ninth bit behind the eight ends them, one column after the last */
        "push {r2}\n\tb 3f\n1:\tldrb lr, [r1], #1\n\tlsl lr, lr, #24\n\torr lr, lr, #0x800000\n\tb 2f\n4:\t"
        "ldrsb r2, [r1], #1\n\t" MULTIPLY
        "2:\tclz r3, lr\n\tadd r0, r0, r3, lsl #4\n\tlsl lr, lr, r3\n\tlsls lr, lr, #1\n\tbne 4b\n3:\t"
        "ldr r3, [sp]\n\tsubs r3, r3, #1\n\tstr r3, [sp]\n\tbpl 1b\n\tadd sp, #4\n\t")
#else
static void tile_bitmap(struct cursor *cursor, int32_t *sums) {
  const column *base = cursor->at;
  const uint8_t *code = cursor->code;
  SUMS;
  for (unsigned bytes = *code++; bytes > 0; --bytes) {
    const column *at = base;
    uint32_t bits = (uint32_t)*code++ << 24;
    while (bits != 0) {
      const unsigned zeros = (unsigned)__builtin_clz(bits);
      at += zeros;
      bits = bits << zeros << 1;
      MULTIPLY(at, (int8_t)*code++);
    }
    base += 8;
  }
  STORE_SUMS(sums);
  cursor->at = base;
  cursor->code = code;
}
#endif
