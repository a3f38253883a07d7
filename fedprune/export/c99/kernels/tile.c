/* Sums of a filter over a tile of eight positions, two of them in each 32-bit word.

   A word holds x0 + x1 * 2^23, where x is an input. One long multiply-accumulate by a weight then serves two positions.
   The 64-bit sum is S0 + S1 * 2^23, and comes apart where S0 fits into 23 bits: a filter whose weights could pass that is
   cut into segments. A column of a tile is four such words, one column for each weight. */

#define PAIRS 4
#define TILE (2 * PAIRS)

typedef int32_t column[PAIRS];

/* Where a filter is read: its next column, and the next byte of its code. */
struct cursor {
  const column *at;
  const uint8_t *code;
};

/* Computes the sums of a segment for the tile's positions. A segment begins with its length. */
typedef void decoder(struct cursor *cursor, int32_t *sums);

#ifdef BY_HAND
/* Decoders by hand, for eight sums of two registers leave a compiler too few. In their loops r0 is
   the next column, r1 the code, r2 a weight and lr free; the sums, in r4 to r11, start at 2^22, so that none is less than
   zero in the lower 23 bits. */
#define JOINED(a, b) ((a) + (b) * (1 << 23))
#define DECODER(name, loop)                                                                             \
  static __attribute__((naked, noinline)) void name(struct cursor *cursor __attribute__((unused)),      \
                                                    int32_t *sums __attribute__((unused))) {            \
    __asm__("push {r0, r1, r4-r11, lr}\n\tldrd r0, r1, [r0]\n\tldrb r2, [r1], #1\n\t"                   \
            "mov r4, #0x400000\n\tmov r5, #0\n\tmov r6, r4\n\tmov r7, r5\n\tmov r8, r4\n\tmov r9, r5\n\t" \
            "mov r10, r4\n\tmov r11, r5\n\t" loop "b.w %c0" : : "i"(tile_end));                                       \
  }
#define MULTIPLY                                                          \
  "ldrd r3, r12, [r0], #8\n\tsmlal r4, r5, r2, r3\n\tsmlal r6, r7, r2, r12\n\t" \
  "ldrd r3, r12, [r0], #8\n\tsmlal r8, r9, r2, r3\n\tsmlal r10, r11, r2, r12\n\t"
#define MULTIPLY_AT(ahead) /* of r0, where it stays */                                                  \
  "ldrd r3, r12, [r0, #(" ahead ")]\n\tsmlal r4, r5, r2, r3\n\tsmlal r6, r7, r2, r12\n\t"              \
  "ldrd r3, r12, [r0, #(" ahead " + 8)]\n\tsmlal r8, r9, r2, r3\n\tsmlal r10, r11, r2, r12\n\t"
#define MULTIPLY_PLACE(ahead) /* of r0, so many columns on as r3 says */                                \
  "add r3, r0, r3, lsl #4\n\tldr r12, [r3, #(" ahead ")]\n\tsmlal r4, r5, r2, r12\n\t"                \
  "ldr r12, [r3, #(" ahead " + 4)]\n\tsmlal r6, r7, r2, r12\n\t"                                      \
  "ldrd r12, r3, [r3, #(" ahead " + 8)]\n\tsmlal r8, r9, r2, r12\n\tsmlal r10, r11, r2, r3\n\t"
#define APART(low, high)                                                                              \
  "ubfx r0, " low ", #0, #23\n\tsub r0, r0, #0x400000\n\tlsr r1, " low ", #23\n\torr r1, r1, " high ", lsl #9\n\t" \
  "stmia r3!, {r0, r1}\n\t"

/* Where they end: the cursor moves on, and sums come apart. */
static __attribute__((naked, noinline, used)) void tile_end(void) {
  __asm__("pop {r2, r3}\n\tstrd r0, r1, [r2]\n\t" APART("r4", "r5") APART("r6", "r7") APART("r8", "r9")
          APART("r10", "r11") "pop {r4-r11, pc}");
}
#elif defined(__ARM_ARCH_6M__)
/* Cortex-M0: no long multiplication, so each position by itself. */
#define JOINED(a, b) (((a) & 0xFFFF) | (b) * (1 << 16))
#define SUMS int32_t s[TILE] = {0}
#define MULTIPLY(at, weight)                                                         \
  do {                                                                               \
    const int32_t w = (weight);                                                      \
    for (unsigned p = 0; p < PAIRS; ++p)                                             \
      s[2 * p] += w * (int16_t)(*at)[p], s[2 * p + 1] += w * ((*at)[p] >> 16);       \
    ++at;                                                                            \
  } while (0)
#define STORE_SUMS(sums)                                  \
  do {                                                    \
    for (unsigned p = 0; p < TILE; ++p) (sums)[p] = s[p]; \
  } while (0)
#else
#define JOINED(a, b) ((a) + (b) * (1 << 23))
#define SUMS int64_t s[PAIRS] = {0}
#define MULTIPLY(at, weight)                                    \
  do {                                                          \
    const int64_t w = (weight);                                 \
    for (unsigned p = 0; p < PAIRS; ++p) s[p] += w * (*at)[p];  \
    ++at;                                                       \
  } while (0)
#define STORE_SUMS(sums)                                               \
  do {                                                                 \
    for (unsigned p = 0; p < PAIRS; ++p) {                             \
      const int32_t first = (int32_t)((uint32_t)s[p] << 9) >> 9;       \
      (sums)[2 * p] = first;                                           \
      (sums)[2 * p + 1] = (int32_t)((s[p] - first) >> 23);             \
    }                                                                  \
  } while (0)
#endif
