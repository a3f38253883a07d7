/* CONV_2D with every weight: two filters, A and B, at four positions.

   A word of code holds two weights of each, as halves A + 256 B. A word of a column holds the two inputs that they weigh,
   of one position. The sums of both are S and A's sum, S = A's + 256 B's, in 32 bits: B's sums fit into 24. */

#define ACROSS 4

struct dense {
  const struct map *in, *out;
  const int32_t *code;
  const struct filter *filters;
  uint16_t words; /* of a pair of filters */
  uint8_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int8_t in_zero, out_zero, low, high;
  uint8_t halved; /* whether sums may leave 23 bits, but not those of either half of a filter's words */
};

/* Where a pair of filters writes: of each position its channels, which of them, and how sums become values. Where the
   last filter is alone, it is both. */
struct pair {
  int8_t *to[ACROSS];
  const struct filter *filters[2];
  uint32_t at[2];
  int32_t zero, halved;
#ifdef __ARM_FEATURE_MVE
  const int8_t *columns[ACROSS];
  int32_t low, high;
#endif
};

#if defined(BY_HAND) && !defined(__ARM_FEATURE_DSP)
/* Cortex-M3: a word of a column holds the inputs of two positions, x0 + x1 * 2^23, for long multiplications. */
#define JOINS 1
#endif

#if defined(BY_HAND) && defined(__ARM_FEATURE_DSP) && !defined(__ARM_FEATURE_MVE)
#define IN_TWOS 1
/* By hand, for a compiler keeps no eight sums in registers: A's in r4 to r7, S in r8 to r11. Four words a turn, of 48
   bytes each; the first turn skips some. Then as `level` says, B's filter first: r1 holds its bias, above its shift, whose
   last bit shifted out is what rounding adds. */
#define PRODUCTS(first, second, third, fourth)                                                        \
  "smlad " first ", r12, r2, " first "\n\tsmlad " second ", r12, r3, " second "\n\t"                      \
  "smlad " third ", lr, r2, " third "\n\tsmlad " fourth ", lr, r3, " fourth "\n\t"
#define WORD                                                                                          \
  "ldr.w r2, [r0], #4\n\tsxtb16 r3, r2\n\tldrd r12, lr, [r1], #8\n\t" PRODUCTS("r8", "r4", "r9", "r5")     \
  "ldrd r12, lr, [r1], #8\n\t" PRODUCTS("r10", "r6", "r11", "r7")
#define BOTH_SUMS                                                                                     \
  "push {r2-r11, lr}\n\tsub r12, r3, r0\n\tubfx r12, r12, #2, #2\n\tmov r4, #0\n\tmov r5, r4\n\tmov r6, r4\n\t"     \
  "mov r7, r4\n\tmov r8, r4\n\tmov r9, r4\n\tmov r10, r4\n\tmov r11, r4\n\ttbb [pc, r12]\n\t.byte 2, 74, 50, 26\n" \
  "1:\t" WORD WORD WORD WORD "ldr r12, [sp, #4]\n\tcmp r0, r12\n\tbne 1b\n\tpop {r2, r3}\n\t"
#endif

#if defined(IN_TWOS) && !defined(MODEL_HAS_LARGE_BIASES) && !defined(MODEL_HAS_LARGE_FACTORS)
#define FILTER(address) "ldr r0, [r2, #" address "]\n\tldrd r0, r1, [r0]\n\tasr r3, r1, #7\n\t"
#define LEVEL(sum, doubled)                                                                           \
  "add " sum ", r3, " sum ", " doubled "\n\tsmmulr " sum ", " sum ", r0\n\tadd " sum ", " sum ", " sum ", asr #31\n\t"  \
  "asrs " sum ", " sum ", r1\n\tadc " sum ", " sum ", lr\n\tssat " sum ", #8, " sum "\n\t"
#define SECOND(sum, first) "sub " sum ", " sum ", " first "\n\t" LEVEL(sum, "asr #7")
#define STORE(sum, place) "ldr r3, [r2, #" place "]\n\tstrb " sum ", [r3, r0]\n\t"
static __attribute__((naked, noinline)) void two_filters(const int32_t *code __attribute__((unused)),
                                                         const int32_t *columns __attribute__((unused)),
                                                         const struct pair *pair __attribute__((unused)),
                                                         const int32_t *end __attribute__((unused))) {
  __asm__(BOTH_SUMS "ldr lr, [r2, #32]\n\t"
          FILTER("20") SECOND("r8", "r4") SECOND("r9", "r5") SECOND("r10", "r6") SECOND("r11", "r7")
          "ldr r0, [r2, #28]\n\t" STORE("r8", "0") STORE("r9", "4") STORE("r10", "8") STORE("r11", "12")
          FILTER("16") LEVEL("r4", "lsl #1") LEVEL("r5", "lsl #1") LEVEL("r6", "lsl #1") LEVEL("r7", "lsl #1")
          "ldr r0, [r2, #24]\n\t" STORE("r4", "0") STORE("r5", "4") STORE("r6", "8") STORE("r7", "12")
          "pop {r4-r11, pc}");
}
#elif !defined(HELIUM_FILTERS)
#ifdef IN_TWOS
#define APART_256(sum, first) "sub " sum ", " sum ", " first "\n\tasr " sum ", " sum ", #8\n\t"
static __attribute__((naked, noinline)) void sums_of_two(const int32_t *code __attribute__((unused)),
                                                         const int32_t *columns __attribute__((unused)),
                                                         int32_t *sums __attribute__((unused)),
                                                         const int32_t *end __attribute__((unused))) {
  __asm__(BOTH_SUMS "stmia r2!, {r4-r7}\n\t" APART_256("r8", "r4") APART_256("r9", "r5") APART_256("r10", "r6")
          APART_256("r11", "r7") "stmia r2, {r8-r11}\n\tpop {r4-r11, pc}");
}
#elif defined(JOINS)
#define LONG(weight, low, high, next_low, next_high) \
  "smlal " low ", " high ", " weight ", r12\n\tsmlal " next_low ", " next_high ", " weight ", lr\n\t"
#define TWO_LONG                                                                                      \
  "ldrd r12, lr, [r1], #8\n\tldrsb r2, [r0], #1\n\tldrsb r3, [r0], #1\n\tsub r3, r3, r2, asr #31\n\t"    \
  LONG("r2", "r4", "r5", "r6", "r7") LONG("r3", "r8", "r9", "r10", "r11")
#define APART_LONG(low, high)                                                                         \
  "ubfx r0, " low ", #0, #23\n\tsub r0, r0, #0x400000\n\tlsr r1, " low ", #23\n\torr r1, r1, " high ", lsl #9\n\t" \
  "stmia r2!, {r0, r1}\n\t"
/* A's sums in r4 to r7, B's in r8 to r11, two in each two; as in a tile they start at 2^22. Two words a turn, of which
   the first turn skips one where they are odd; B is the upper byte of a half, and one more where A is less than zero. */
static __attribute__((naked, noinline)) void sums_of_two(const int32_t *code __attribute__((unused)),
                                                         const int32_t *columns __attribute__((unused)),
                                                         int32_t *sums __attribute__((unused)),
                                                         const int32_t *end __attribute__((unused))) {
  __asm__("push {r2-r11, lr}\n\tmov r4, #0x400000\n\tmov r5, #0\n\tmov r6, r4\n\tmov r7, r5\n\tmov r8, r4\n\tmov r9, r5\n\t"
          "mov r10, r4\n\tmov r11, r5\n\tsub r12, r3, r0\n\ttst r12, #4\n\tbne 2f\n"
          "1:\t" TWO_LONG TWO_LONG "2:\t" TWO_LONG TWO_LONG "ldr r3, [sp, #4]\n\tcmp r0, r3\n\tbne 1b\n\tpop {r2, r3}\n\t"
          APART_LONG("r4", "r5") APART_LONG("r6", "r7") APART_LONG("r8", "r9") APART_LONG("r10", "r11") "pop {r4-r11, pc}");
}
#elif !defined(__ARM_FEATURE_MVE)
static void sums_of_two(const int32_t *code, const int32_t *columns, int32_t *sums, const int32_t *end) {
  for (unsigned second = 0; second < 2; ++second, sums += ACROSS) { /* one by one: few sums are faster than few loads */
    int32_t a = 0, b = 0, c = 0, d = 0;
    const int32_t *at = columns;
    for (const int32_t *word = code; word != end; ++word, at += ACROSS) {
      const int32_t first = (int8_t)*word, next = (int8_t)(*word >> 16);
      const int32_t v = second ? ((int16_t)*word - first) >> 8 : first, w = second ? ((*word >> 16) - next) >> 8 : next;
      a += (int16_t)at[0] * v + (at[0] >> 16) * w;
      b += (int16_t)at[1] * v + (at[1] >> 16) * w;
      c += (int16_t)at[2] * v + (at[2] >> 16) * w;
      d += (int16_t)at[3] * v + (at[3] >> 16) * w;
    }
    sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
  }
}
#endif

static SMALL void two_filters(const int32_t *code, const int32_t *columns, const struct pair *pair, const int32_t *end) {
  int32_t sums[2][ACROSS];
#if defined(JOINS) && defined(MODEL_HAS_LARGE_SUMS)
  if (pair->halved && end - code > 1) {
    const int32_t *middle = code + (end - code) / 2;
    int32_t before[2][ACROSS];
    sums_of_two(code, columns, before[0], middle);
    sums_of_two(middle, columns + (middle - code) * ACROSS, sums[0], end);
    for (unsigned p = 0; p < ACROSS; ++p) sums[0][p] += before[0][p], sums[1][p] += before[1][p];
  } else
#endif
    sums_of_two(code, columns, sums[0], end);
  for (unsigned second = 2; second-- > 0;) {
    const struct filter *filter = pair->filters[second];
    const int32_t bias = filter->bias, multiplier = filter->multiplier, zero = pair->zero;
    const unsigned at = pair->at[second];
    const int right = filter->right;
    for (unsigned p = 0; p < ACROSS; ++p) pair->to[p][at] = level(sums[second][p], bias, multiplier, right, zero);
  }
}
#endif

#ifdef __ARM_FEATURE_MVE
/* Where the inputs of a position lie, one behind the other: in the map or, put together, in `column`. */
static const int8_t *window(const struct dense *d, unsigned y, unsigned x, int8_t *column, const int8_t *zeros) {
  const unsigned channels = d->in->channels, width = d->in->width, left = x * d->stride_x - d->pad_x;
  const unsigned whole = d->dilation_x == 1 && width >= d->kernel_width ? width - d->kernel_width + 1 : 0;
  const unsigned n = d->kernel_width * channels;
  int8_t *to = column;
  for (unsigned ky = 0; ky < d->kernel_height; ++ky) {
    const unsigned row = y * d->stride_y + ky * d->dilation_y - d->pad_y; /* wraps where negative */
    const int8_t *cells = row < d->in->height ? row_of(d->in, row) : 0;
    if (cells && left < whole) {
      if (n == 2u * d->words) return cells + left * channels;
      to = copied(to, cells + left * channels, n);
      continue;
    }
    for (unsigned kx = 0; kx < d->kernel_width; ++kx) {
      const unsigned place = left + kx * d->dilation_x;
      to = copied(to, cells && place < width ? cells + place * channels : zeros, channels);
    }
  }
  return column;
}
#else
/* Writes n values as inputs `from` on of position p; returns the number of the next. */
static unsigned widen(int32_t *columns, unsigned p, unsigned from, const int8_t *in, unsigned n) {
#ifdef JOINS
  int32_t *to = columns + 2 * from + p / 2;
  from += n;
  if (p % 2 == 0) {
    for (; n >= 4; n -= 4, in += 4, to += 8) {
      const uint32_t four = four_bytes(in);
      to[0] = (int8_t)four, to[2] = (int8_t)(four >> 8), to[4] = (int8_t)(four >> 16), to[6] = (int8_t)(four >> 24);
    }
    for (; n > 0; --n, to += 2) *to = *in++;
  } else {
    for (; n >= 4; n -= 4, in += 4, to += 8) {
      const uint32_t four = four_bytes(in);
      to[0] += (int8_t)four * (1 << 23), to[2] += (int8_t)(four >> 8) * (1 << 23);
      to[4] += (int8_t)(four >> 16) * (1 << 23), to[6] += (int8_t)(four >> 24) * (1 << 23);
    }
    for (; n > 0; --n, to += 2) *to += *in++ * (1 << 23);
  }
  return from;
#else
  int16_t *halves = (int16_t *)(void *)(columns + from / 2 * ACROSS + p);
  const unsigned until = from + n;
  if (from % 2 != 0 && n > 0) halves[1] = *in++, halves += 2 * ACROSS, --n;
#ifdef LOADS_UNALIGNED
  int32_t *words = (int32_t *)(void *)halves;
  for (; n >= 4; n -= 4, in += 4, words += 2 * ACROSS) {
    const uint32_t four = four_bytes(in);
#ifdef __ARM_FEATURE_DSP
    const uint32_t even = even_bytes(four), odd = odd_bytes(four);
    words[0] = (int32_t)lower_halves(even, odd);
    words[ACROSS] = (int32_t)upper_halves(even, odd);
#else
    words[0] = ((int8_t)four & 0xFFFF) | (int8_t)(four >> 8) * (1 << 16);
    words[ACROSS] = ((int8_t)(four >> 16) & 0xFFFF) | (int8_t)(four >> 24) * (1 << 16);
#endif
  }
  halves = (int16_t *)(void *)words;
#endif
  for (; n >= 2; n -= 2, in += 2, halves += 2 * ACROSS) halves[0] = in[0], halves[1] = in[1];
  if (n > 0) halves[0] = *in;
  return until;
#endif
}

static SMALL void widen_window(const struct dense *d, unsigned y, unsigned x, int32_t *columns, unsigned p,
                               const int8_t *zeros) {
  const unsigned channels = d->in->channels, width = d->in->width, left = x * d->stride_x - d->pad_x;
  const unsigned whole = d->dilation_x == 1 && width >= d->kernel_width ? width - d->kernel_width + 1 : 0;
  unsigned at = 0;
  for (unsigned ky = 0; ky < d->kernel_height; ++ky) {
    const unsigned row = y * d->stride_y + ky * d->dilation_y - d->pad_y; /* wraps where negative */
    const int8_t *cells = row < d->in->height ? row_of(d->in, row) : 0;
    if (cells && left < whole) {
      at = widen(columns, p, at, cells + left * channels, d->kernel_width * channels);
      continue;
    }
    for (unsigned kx = 0; kx < d->kernel_width; ++kx) {
      const unsigned place = left + kx * d->dilation_x;
      at = widen(columns, p, at, cells && place < width ? cells + place * channels : zeros, channels);
    }
  }
}

#endif

/* Rows from..until of the output. */
static void dense(const void *layer, unsigned from, unsigned until) {
  const struct dense *d = layer;
  const unsigned width = d->out->width, channels = d->out->channels;
  int32_t *columns = (int32_t *)MODEL_SCRATCH;
  int8_t *zeros = (int8_t *)(columns + d->words * ACROSS);
  struct pair pair = {.zero = d->out_zero, .halved = d->halved};
#ifdef __ARM_FEATURE_MVE
  pair.low = d->low, pair.high = d->high;
#endif
  unsigned y = from, x = 0;
  __builtin_memset(zeros, d->in_zero, d->in->channels);
  for (unsigned left = (until - from) * width; left > 0;) {
    const unsigned n = left < ACROSS ? left : ACROSS;
    for (unsigned p = 0; p < ACROSS; ++p) {
      pair.to[p] = row_of(d->out, y) + x * channels;
#ifdef __ARM_FEATURE_MVE
      pair.columns[p] = window(d, y, x, (int8_t *)(columns + p * d->words), zeros);
#else
      widen_window(d, y, x, columns, p, zeros);
#endif
      if (p + 1 < n && ++x == width) x = 0, ++y; /* what is left over repeats the last position */
    }
    if (++x == width) x = 0, ++y;
    left -= n;
    const int32_t *code = d->code;
    for (unsigned at = 0; at < channels; at += 2, code += d->words) {
      pair.at[0] = at, pair.at[1] = at + 1 < channels ? at + 1 : at;
      pair.filters[0] = d->filters + at, pair.filters[1] = d->filters + pair.at[1];
#ifdef __ARM_FEATURE_MVE
      two_filters(code, (const int32_t *)(const void *)pair.columns, &pair, code + d->words);
#else
      two_filters(code, columns, &pair, code + d->words);
#endif
    }
#ifndef HELIUM_FILTERS
    if (clips(d->low, d->high))
      for (unsigned p = 0; p < n; ++p) clip(pair.to[p], channels, d->low, d->high);
#endif
  }
}
