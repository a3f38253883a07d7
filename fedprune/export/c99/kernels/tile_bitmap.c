/* A byte for each eight columns, its highest bit for the first, then the weights that are not zero. */
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
