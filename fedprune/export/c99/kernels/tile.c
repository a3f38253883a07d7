/* Sums of a filter over a tile of eight positions, two of them in each 32-bit word.

   A word holds u0 + u1 * 2^23, where u is an input plus 128, so never negative. One long multiply-accumulate by a weight
   then serves two positions. The 64-bit sum is S0 + S1 * 2^23, and comes apart where S0 fits into 23 bits: a filter whose
   weights could pass that is cut into segments. A column of a tile is four such words, one column for each weight. */

#define PAIRS 4
#define TILE (2 * PAIRS)
#define SPACING 23

typedef int32_t column[PAIRS];

/* Where a filter is read: its next column, and the next byte of its code. */
struct cursor {
  const column *at;
  const uint8_t *code;
};

/* Computes the sums of a segment for the tile's positions. A segment begins with its length. */
typedef void decoder(struct cursor *cursor, int32_t *sums);

#if defined(__thumb2__) && defined(__ARM_ARCH) && __ARM_ARCH >= 7
/* Cortex-M3, M4, M7: smlal, and loads that move the pointer on. Two registers a sum, which C's int64_t would shuffle. */
#define SUMS uint32_t a0 = 0, b0 = 0, c0 = 0, d0 = 0, a1 = 0, b1 = 0, c1 = 0, d1 = 0, x, y
#define MULTIPLY(at, weight)                                                                          \
  __asm__("ldrd %[x], %[y], [%[p]], #8\n\tsmlal %[a0], %[a1], %[w], %[x]\n\t"                         \
          "smlal %[b0], %[b1], %[w], %[y]\n\tldrd %[x], %[y], [%[p]], #8\n\t"                         \
          "smlal %[c0], %[c1], %[w], %[x]\n\tsmlal %[d0], %[d1], %[w], %[y]"                          \
          : [a0] "+r"(a0), [a1] "+r"(a1), [b0] "+r"(b0), [b1] "+r"(b1), [c0] "+r"(c0), [c1] "+r"(c1), \
            [d0] "+r"(d0), [d1] "+r"(d1), [p] "+r"(at), [x] "=&r"(x), [y] "=&r"(y)                    \
          : [w] "r"((int32_t)(weight)), "m"(*(at)))
#define STORE_SUMS(sums) \
  (apart(a0, a1, sums), apart(b0, b1, sums + 2), apart(c0, c1, sums + 4), apart(d0, d1, sums + 6))

static inline void apart(uint32_t low, uint32_t high, int32_t *sums) {
  const int32_t first = (int32_t)(low << (32 - SPACING)) >> (32 - SPACING);
  sums[0] = first;
  sums[1] = (int32_t)(((((uint64_t)high << 32) | low) - (uint64_t)(int64_t)first) >> SPACING);
}
#elif defined(__ARM_ARCH_6M__)
/* Cortex-M0: no long multiplication, so each position by itself. */
#define SUMS int32_t s[TILE] = {0}
#define MULTIPLY(at, weight)                                                           \
  do {                                                                                 \
    const int32_t w = (weight);                                                        \
    s[0] += w * ((*at)[0] & 255), s[1] += w * ((*at)[0] >> SPACING);                   \
    s[2] += w * ((*at)[1] & 255), s[3] += w * ((*at)[1] >> SPACING);                   \
    s[4] += w * ((*at)[2] & 255), s[5] += w * ((*at)[2] >> SPACING);                   \
    s[6] += w * ((*at)[3] & 255), s[7] += w * ((*at)[3] >> SPACING);                   \
    ++at;                                                                              \
  } while (0)
#define STORE_SUMS(sums)                                     \
  do {                                                     \
    for (unsigned p = 0; p < TILE; ++p) (sums)[p] = s[p]; \
  } while (0)
#else
#define SUMS int64_t s[PAIRS] = {0}
#define MULTIPLY(at, weight)                                                     \
  do {                                                                           \
    const int64_t w = (weight);                                                  \
    for (unsigned p = 0; p < PAIRS; ++p) s[p] += w * (*at)[p];                   \
    ++at;                                                                        \
  } while (0)
#define STORE_SUMS(sums)                                                           \
  do {                                                                           \
    for (unsigned p = 0; p < PAIRS; ++p) {                                       \
      const int32_t first = (int32_t)((uint32_t)s[p] << (32 - SPACING)) >> (32 - SPACING); \
      (sums)[2 * p] = first;                                                    \
      (sums)[2 * p + 1] = (int32_t)((s[p] - first) >> SPACING);                 \
    }                                                                            \
  } while (0)
#endif
