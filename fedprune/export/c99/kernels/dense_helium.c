/* CONV_2D with every weight, on processors with Helium: two filters, A and B, of sixteen inputs at once at four positions,
   whose columns are plain bytes. Words of code read as bytes are those of A and of B, one less where A is less than zero.
   A's sums are in r0, r2, r4, r6, B's in r8, r10, r12, lr, the columns at r1, r3, r5, r7, the code at r9; r11 counts
   inputs, the last up to fifteen of which go as halves, eight at a time. */

#ifdef __ARM_FEATURE_MVE
#define BYTES_OF(column, vector, a, b)                                                                \
  "vldrb.u8 " vector ", [" column "], #16\n\tvmladava.s8 " a ", q0, " vector "\n\tvmladava.s8 " b ", q1, " vector "\n\t"
#define HALVES_OF(column, a, b)                                                                       \
  "vpst\n\tvldrbt.s16 q3, [" column "], #8\n\tvmladava.s16 " a ", q1, q3\n\tvmladava.s16 " b ", q2, q3\n\t"
#define BOTH_SUMS                                                                                     \
  "push {r2, r4-r11, lr}\n\tmov r9, r0\n\tsub r11, r3, r0\n\tlsr r11, r11, #1\n\tldrd r5, r7, [r1, #8]\n\t"              \
  "ldrd r1, r3, [r1]\n\t"                                                                               \
  "mov r0, #0\n\tmov r2, r0\n\tmov r4, r0\n\tmov r6, r0\n\tmov r8, r0\n\tmov r10, r0\n\tmov r12, r0\n\tmov lr, r0\n\t"  \
  "subs r11, #16\n\tblo 2f\n"                                                                         \
  "1:\tvld20.8 {q0, q1}, [r9]\n\tvld21.8 {q0, q1}, [r9]!\n\tsubs r11, #16\n\tvshr.s8 q2, q0, #7\n\t"            \
  "vsub.i8 q1, q1, q2\n\t" BYTES_OF("r1", "q2", "r0", "r8") BYTES_OF("r3", "q3", "r2", "r10")             \
  BYTES_OF("r5", "q2", "r4", "r12") BYTES_OF("r7", "q3", "r6", "lr") "bhs 1b\n"                         \
  "2:\tadds r11, #16\n\tbeq 4f\n"                                                                     \
  "3:\tvctp.16 r11\n\tvpst\n\tvldrht.u16 q0, [r9], #16\n\tsubs r11, #8\n\tvmovlb.s8 q1, q0\n\t"                 \
  "vshr.s16 q2, q1, #15\n\tvmovlt.s8 q3, q0\n\tvsub.i16 q2, q3, q2\n\t" HALVES_OF("r1", "r0", "r8")       \
  HALVES_OF("r3", "r2", "r10") HALVES_OF("r5", "r4", "r12") HALVES_OF("r7", "r6", "lr") "bhi 3b\n4:\t"

struct pair;

#if !defined(MODEL_HAS_LARGE_BIASES) && !defined(MODEL_HAS_LARGE_FACTORS)
#define HELIUM_FILTERS 1
/* As `level` says, and then within the limits of the activation, both filters' as halves. */
#define LEVELS_OF(sums, multiplier, other)                                                            \
  "asr r10, " other ", #8\n\tvadd.i32 " sums ", " sums ", r10\n\tvqrdmulh.s32 " sums ", " sums ", " multiplier "\n\t"    \
  "vshr.s32 q2, " sums ", #31\n\tvadd.i32 " sums ", " sums ", q2\n\trsb " other ", " other ", #0\n\t"                 \
  "vrshl.s32 " sums ", " other "\n\tvadd.i32 " sums ", " sums ", r6\n\t"
static __attribute__((naked, noinline)) void two_filters(const int32_t *code __attribute__((unused)),
                                                         const int32_t *columns __attribute__((unused)),
                                                         const struct pair *pair __attribute__((unused)),
                                                         const int32_t *end __attribute__((unused))) {
  __asm__(BOTH_SUMS "pop {r11}\n\tvmov q0[2], q0[0], r0, r4\n\tvmov q0[3], q0[1], r2, r6\n\tvmov q1[2], q1[0], r8, r12\n\t"
          "vmov q1[3], q1[1], r10, lr\n\tldrd r0, r1, [r11, #16]\n\tldrd r2, r3, [r0]\n\tldrd r4, r5, [r1]\n\t"
          "ldr r6, [r11, #32]\n\tldrd r7, r8, [r11, #56]\n\t" LEVELS_OF("q0", "r2", "r3") LEVELS_OF("q1", "r4", "r5")
          "vqmovnb.s32 q0, q0\n\tvqmovnt.s32 q0, q1\n\tvdup.16 q2, r7\n\tvdup.16 q3, r8\n\tvmax.s16 q0, q0, q2\n\t"
          "vmin.s16 q0, q0, q3\n\tvshr.u32 q1, q0, #16\n\tvldrw.u32 q2, [r11]\n\tldrd r0, r1, [r11, #24]\n\t"
          "vstrb.32 q1, [r1, q2]\n\tvstrb.32 q0, [r0, q2]\n\tpop {r4-r11, pc}");
}
#else
static __attribute__((naked, noinline)) void sums_of_two(const int32_t *code __attribute__((unused)),
                                                         const int32_t *columns __attribute__((unused)),
                                                         int32_t *sums __attribute__((unused)),
                                                         const int32_t *end __attribute__((unused))) {
  __asm__(BOTH_SUMS "pop {r1}\n\tstmia r1, {r0, r2, r4, r6, r8, r10, r12, lr}\n\tpop {r4-r11, pc}");
}
#endif

/* Copies n bytes, at least one; returns where the next go. */
static int8_t *copied(int8_t *to, const int8_t *from, unsigned n) {
  int8_t *end = to + n;
  __asm__ volatile("dlstp.8 lr, %2\n1:\tvldrb.u8 q0, [%1], #16\n\tvstrb.8 q0, [%0], #16\n\tletp lr, 1b"
                   : "+r"(to), "+r"(from) : "r"(n) : "lr", "q0", "memory");
  return end;
}
#endif
