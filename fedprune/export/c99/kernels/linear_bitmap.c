/* A byte for each eight weights, its highest bit for the first, then those that are not zero. */
static int32_t linear_bitmap(const int8_t **in, const uint8_t **code) {
  const uint8_t *at = *code;
  int32_t sum = 0;
  for (unsigned bytes = *at++; bytes > 0; --bytes, *in += 8) {
    const int8_t *cell = *in;
    for (uint32_t bits = *at++; bits != 0; bits = bits << 1 & 255, ++cell)
      if (bits & 128) sum += *cell * (int8_t)*at++;
  }
  *code = at;
  return sum;
}
