/* DEPTHWISE_CONV_2D with one filter a channel: four channels and two taps at a time. */

struct depthwise {
  const struct map *in, *out;
  /* Of each four channels a word for the first tap, and for each two taps two: of two channels, then of the others. */
  const int32_t *weights;
  const struct filter *filters;
  uint8_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int8_t in_zero, out_zero, low, high;
};

#if defined(__ARM_FEATURE_MVE) && !defined(MODEL_HAS_LARGE_BIASES) && !defined(MODEL_HAS_LARGE_FACTORS)
/* Helium: sixteen channels at once, of four blocks. Weights of a tap are two halves of each block, at places that are in
   q7, or of the first tap in q4. The sums of every fourth channel are in q0, q1, q2 or q3. */
#define TAP(cell, places)                                                                             \
  "add " cell ", %[at]\n\tvpstt\n\tvldrbt.u8 q5, [" cell "]\n\tvldrht.u16 q6, [%[weights], " places ", uxtw #1]\n\t"   \
  "vmullb.s8 q4, q6, q5\n\tvmullt.s8 q6, q6, q5\n\tvmovlb.s16 q5, q4\n\tvadd.i32 q0, q0, q5\n\tvmovlt.s16 q5, q4\n\t"  \
  "vadd.i32 q2, q2, q5\n\tvmovlb.s16 q5, q6\n\tvadd.i32 q1, q1, q5\n\tvmovlt.s16 q5, q6\n\tvadd.i32 q3, q3, q5\n\t"
/* As `level` says, of filters whose addresses are in q4, and whose number is r8 / 4. */
#define LEVELS(sums, factor, other)                                                                   \
  "lsr r9, r8, #2\n\tvctp.32 r9\n\tsub r8, #1\n\tvpstt\n\tvldrwt.u32 q5, [q4, #" factor "]\n\t"                        \
  "vldrwt.u32 q6, [q4, #" other "]\n\tvshr.s32 q7, q6, #8\n\tvadd.i32 " sums ", " sums ", q7\n\t"                      \
  "vqrdmulh.s32 " sums ", " sums ", q5\n\tvneg.s32 q6, q6\n\tvshr.s32 q7, " sums ", #31\n\t"                           \
  "vadd.i32 " sums ", " sums ", q7\n\tvrshl.s32 " sums ", " sums ", q6\n\tvadd.i32 " sums ", " sums ", %[zero]\n\t"

/* All channels of a position, from `to` until `last`. */
static void outputs(const int8_t *const *cells, unsigned at, const int32_t *weights, const int8_t *const *end,
                    const struct filter *filters, int8_t *to, const int8_t *last, int32_t zero) {
  const uint16_t block = (uint16_t)(2 * (end - cells)), twice = 2 * block, thrice = 3 * block;
  struct {
    uint16_t first[8], others[8];
    const struct filter *filters[4];
  } places = {{0, 1, block, block + 1, twice, twice + 1, thrice, thrice + 1},
              {0, 2, block, block + 2, twice, twice + 2, thrice, thrice + 2},
              {filters, filters + 4, filters + 8, filters + 12}};
  for (unsigned left = (unsigned)(last - to); left > 0; left -= left < 16 ? left : 16) {
    const int8_t *const *cell = cells;
    const int32_t *word = weights;
    __asm__ volatile("vldrw.u32 q4, [%[places]]\n\tvldrw.u32 q7, [%[places], #16]\n\tvmov.i32 q0, #0\n\tvmov q1, q0\n\t"
                     "vmov q2, q0\n\tvmov q3, q0\n\tadd r8, %[left], #3\n\tbic r8, #3\n\tvctp.8 r8\n\t"
                     "ldr r8, [%[cell]], #4\n\t" TAP("r8", "q4") "add %[weights], #4\n"
                     "1:\tldrd r8, r9, [%[cell]], #8\n\t" TAP("r8", "q7") "add %[weights], #2\n\t" TAP("r9", "q7")
                     "add %[weights], #6\n\tcmp %[cell], %[end]\n\tbne 1b\n\t"
                     "mov r8, #128\n\tvldrw.u32 q4, [%[places], #32]\n\tvadd.i32 q5, q4, r8\n\t"
                     "vstrw.32 q5, [%[places], #32]\n\tadd r8, %[left], #3\n\t"
                     LEVELS("q0", "0", "4") LEVELS("q1", "8", "12") LEVELS("q2", "16", "20") LEVELS("q3", "24", "28")
                     "vqmovnb.s32 q0, q0\n\tvqmovnt.s32 q0, q2\n\tvqmovnb.s32 q1, q1\n\tvqmovnt.s32 q1, q3\n\t"
                     "vqmovnb.s16 q0, q0\n\tvqmovnt.s16 q0, q1\n\tvctp.8 %[left]\n\tvpst\n\tvstrbt.8 q0, [%[to]]"
                     : [cell] "+r"(cell), [weights] "+r"(word)
                     : [at] "r"(at), [left] "r"(left), [end] "r"(end), [to] "r"(to), [zero] "r"(zero), [places] "r"(&places)
                     : "r8", "r9", "q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "cc", "memory");
    at += 16, to += 16, weights += 4 * (end - cells);
  }
}
#else
#if defined(BY_HAND) && defined(__ARM_FEATURE_DSP)
/* By hand: a compiler keeps too few of these in registers. The sums are in r4 to r7, r0 is the next cell, r1 how much
   further on it lies, r2 the weights. Eight taps a turn, of 72 bytes each two; the first turn begins at r12, which skips
   some. */
#define FIRST_TURN                                                                                    \
  "sub r12, r0, r3\n\tadd r12, r12, #4\n\tubfx r12, r12, #3, #2\n\tadd r12, r12, r12, lsl #3\n\tadr r4, 1f\n\t" \
  "add r12, r4, r12, lsl #3\n\torr r12, r12, #1\n\t"
#define FIRST_TAP                                                                                     \
  "ldr r8, [r0], #4\n\tldr r8, [r8, r1]\n\tldr r11, [r2], #4\n\tsxtb16 r9, r8\n\tsxtb16 r10, r11\n\t"           \
  "sxtb16 r8, r8, ror #8\n\tsxtb16 r11, r11, ror #8\n\tsmulbb r4, r9, r10\n\tsmultt r6, r9, r10\n\t"            \
  "smulbb r5, r8, r11\n\tsmultt r7, r8, r11\n\t"
#define TWO_CHANNELS(inputs, weights, first, second)                                                  \
  "sxtb16 r9, " inputs "\n\tsxtb16 r10, " weights "\n\tsmlad " first ", r9, r10, " first "\n\t"                 \
  "sxtb16 r9, " inputs ", ror #8\n\tsxtb16 r10, " weights ", ror #8\n\tsmlad " second ", r9, r10, " second "\n\t"
#define TWO_TAPS                                                                                      \
  "ldrd r8, r9, [r0], #8\n\tldr.w r8, [r8, r1]\n\tldr.w r9, [r9, r1]\n\tldrd r11, r12, [r2], #8\n\t"            \
  "pkhbt r3, r8, r9, lsl #16\n\tpkhtb r8, r9, r8, asr #16\n\t"                                                  \
  TWO_CHANNELS("r3", "r11", "r4", "r5") TWO_CHANNELS("r8", "r12", "r6", "r7")
#define OTHER_TAPS(end) "1:\t" TWO_TAPS TWO_TAPS TWO_TAPS TWO_TAPS "ldr r3, [sp, #" end "]\n\tcmp r0, r3\n\tbne 1b\n\t"
#endif

#if defined(OTHER_TAPS) && !defined(MODEL_HAS_LARGE_BIASES) && !defined(MODEL_HAS_LARGE_FACTORS)
/* As `level` says: r9 holds a bias above its shift, r12 the zero point, lr is the next filter, r10 the next output. */
#define LEVEL_AT(sum)                                                                                 \
  "ldrd r8, r9, [lr], #8\n\tasr r3, r9, #7\n\tadd " sum ", r3, " sum ", lsl #1\n\tsmmulr " sum ", " sum ", r8\n\t" \
  "add " sum ", " sum ", " sum ", asr #31\n\tasrs " sum ", " sum ", r9\n\tadc " sum ", " sum ", r12\n\t"        \
  "ssat " sum ", #8, " sum "\n\tstrb " sum ", [r10], #1\n\t"
/* All channels of a position, from `to` until `last`; of the last four as many as there are. */
static __attribute__((naked, noinline, aligned(4))) void
outputs(const int8_t *const *cells __attribute__((unused)), unsigned at __attribute__((unused)),
        const int32_t *weights __attribute__((unused)), const int8_t *const *end __attribute__((unused)),
        const struct filter *filters __attribute__((unused)), int8_t *to __attribute__((unused)),
        const int8_t *last __attribute__((unused)), int32_t zero __attribute__((unused))) {
  __asm__("push {r0, r3-r11, lr}\n\tldr lr, [sp, #44]\n\t" FIRST_TURN "str r12, [sp, #44]\n"
          "2:\t" FIRST_TAP "ldr pc, [sp, #44]\n" OTHER_TAPS("4")
          "ldrd r10, r11, [sp, #48]\n\tldr r12, [sp, #56]\n\tsub r3, r11, r10\n\tcmp r3, #4\n\tblo 3f\n\t"
          LEVEL_AT("r4") LEVEL_AT("r5") LEVEL_AT("r6") LEVEL_AT("r7")
          "str r10, [sp, #48]\n\tadd r1, r1, #4\n\tldr r0, [sp]\n\tcmp r10, r11\n\tbne 2b\n\tb 4f\n"
          "3:\t" LEVEL_AT("r4") "mov r4, r5\n\tmov r5, r6\n\tcmp r10, r11\n\tbne 3b\n4:\tpop {r0, r3-r11, pc}");
}
#else
#ifdef OTHER_TAPS
static __attribute__((naked, noinline, aligned(4))) void
sums_of_four(const int8_t *const *cells __attribute__((unused)), unsigned at __attribute__((unused)),
             const int32_t *weights __attribute__((unused)), const int8_t *const *end __attribute__((unused)),
             int32_t *sums __attribute__((unused))) {
  __asm__("push {r3-r11, lr}\n\t" FIRST_TURN FIRST_TAP "bx r12\n" OTHER_TAPS("0")
          "ldr r0, [sp, #40]\n\tstmia r0, {r4-r7}\n\tpop {r3-r11, pc}");
}
#else
static SMALL void sums_of_four(const int8_t *const *cells, unsigned at, const int32_t *weights, const int8_t *const *end,
                               int32_t *sums) {
  const int8_t *w = (const int8_t *)weights, *first = *cells++ + at;
  int32_t a = first[0] * w[0], b = first[1] * w[1], c = first[2] * w[2], d = first[3] * w[3];
  for (w += 4; cells != end; cells += 2, w += 8) {
    const int8_t *x = cells[0] + at, *y = cells[1] + at;
    a += x[0] * w[0] + y[0] * w[2], b += x[1] * w[1] + y[1] * w[3];
    c += x[2] * w[4] + y[2] * w[6], d += x[3] * w[5] + y[3] * w[7];
  }
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}
#endif

/* All channels of a position, from `to` until `last`. */
static void outputs(const int8_t *const *cells, unsigned at, const int32_t *weights, const int8_t *const *end,
                    const struct filter *filter, int8_t *to, const int8_t *last, int32_t zero) {
  for (; to < last; at += 4, weights += end - cells) {
    int32_t sums[4];
    sums_of_four(cells, at, weights, end, sums);
    for (unsigned i = 0; i < 4 && to < last; ++i, ++filter)
      *to++ = level(sums[i], filter->bias, filter->multiplier, filter->right, zero);
  }
}
#endif

#endif

/* Finds the cells of a window; returns whether all lie within the map. */
static SMALL int find_cells(const struct depthwise *d, unsigned y, unsigned x, const int8_t **cells, const int8_t *zeros) {
  const unsigned channels = d->out->channels;
  int within = 1;
  for (unsigned ky = 0; ky < d->kernel_height; ++ky) {
    const unsigned row = y * d->stride_y + ky * d->dilation_y - d->pad_y; /* wraps where negative */
    const int8_t *cell = row < d->in->height ? row_of(d->in, row) : 0;
    unsigned column = x * d->stride_x - d->pad_x;
    for (unsigned kx = 0; kx < d->kernel_width; ++kx, column += d->dilation_x, ++cells) {
      const int inside = cell && column < d->in->width;
      *cells = inside ? cell + column * channels : zeros;
      within &= inside;
    }
  }
  while ((const int8_t *)cells != zeros) *cells++ = zeros; /* of taps that make them 3, 5 or more: their weights are 0 */
  return within;
}

static void depthwise(const void *layer, unsigned from, unsigned until) {
  const struct depthwise *d = layer;
  const unsigned channels = d->out->channels, taps = (unsigned)d->kernel_height * d->kernel_width;
  const unsigned reach = d->dilation_x * (d->kernel_width - 1u) + 1, width = d->in->width;
  const int8_t **cells = (const int8_t **)MODEL_SCRATCH, **end = cells + (taps > 1 ? taps | 1 : 3);
  int8_t *zeros = (int8_t *)end; /* the cells end where it begins */
  __builtin_memset(zeros, d->in_zero, channels);
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(d->out, y);
    unsigned moved = 0;
    int within = 0;
    for (unsigned x = 0; x < d->out->width; ++x, to += channels) {
      const unsigned left = x * d->stride_x - d->pad_x;
      if (within && left + reach <= width) moved += d->stride_x * channels; /* the same cells, further on */
      else within = find_cells(d, y, x, cells, zeros), moved = 0;
      outputs(cells, moved, d->weights, end, d->filters, to, to + channels, d->out_zero);
    }
    if (clips(d->low, d->high)) clip(to - d->out->width * channels, d->out->width * channels, d->low, d->high);
  }
}
