/* FULLY_CONNECTED with every weight, four filters at a time: two words of code for two inputs, each of two filters, A and
   B, as halves A + 256 B. The sums of both are S and A's sum, S = A's + 256 B's, in 32 bits: B's sums fit into 24. */

struct vector {
  const struct map *in, *out;
  const int32_t *code;
  const struct filter *filters;
  uint16_t fours; /* of inputs */
  int8_t out_zero, low, high;
};

/* Adds the products of two inputs and a word, to A's sum and to B's or, where products come in twos, to S. */
static inline void add_products(uint32_t inputs, uint32_t word, int32_t *first, uint32_t *second) {
#ifdef __ARM_FEATURE_DSP
  *first = __smlad((int32_t)inputs, (int32_t)even_bytes(word), *first);
  *second = (uint32_t)__smlad((int32_t)inputs, (int32_t)word, (int32_t)*second);
#else
  const int32_t x = (int8_t)inputs, y = (int8_t)(inputs >> 16), a = (int8_t)word, b = (int8_t)(word >> 16);
  *first += x * a + y * b;
  *second += (uint32_t)(x * (((int16_t)word - a) >> 8) + y * (((int16_t)(word >> 16) - b) >> 8));
#endif
}

static inline int32_t sum_of_second(int32_t first, uint32_t second) {
#ifdef __ARM_FEATURE_DSP
  return (int32_t)(second - (uint32_t)first) >> 8;
#else
  (void)first;
  return (int32_t)second;
#endif
}

#ifdef __ARM_FEATURE_DSP
#define EVEN even_bytes
#define ODD odd_bytes
#else
#define EVEN(x) (x)
#define ODD(x) ((x) >> 8)
#endif

/* Adds the products of the next four inputs and four words; by hand, for a compiler loads the words one by one. */
static inline void add_four(const int8_t **in, const int32_t **code, int32_t *a, uint32_t *b, int32_t *c, uint32_t *d) {
#if defined(BY_HAND) && defined(__ARM_FEATURE_DSP)
#define TWICE(inputs, word, first, second) \
  "smlad %" second ", %" inputs ", " word ", %" second "\n\tsxtb16 " word ", " word "\n\t" \
  "smlad %" first ", %" inputs ", " word ", %" first "\n\t"
  uint32_t even, odd;
  __asm__("ldr %7, [%0], #4\n\tldmia %1!, {r8-r11}\n\tsxtb16 %6, %7\n\tsxtb16 %7, %7, ror #8\n\t"
          TWICE("6", "r8", "2", "3") TWICE("6", "r9", "4", "5") TWICE("7", "r10", "2", "3") TWICE("7", "r11", "4", "5")
          : "+r"(*in), "+r"(*code), "+r"(*a), "+r"(*b), "+r"(*c), "+r"(*d), "=&r"(even), "=&r"(odd)
          : : "r8", "r9", "r10", "r11", "memory");
#else
  const uint32_t four = four_bytes(__builtin_assume_aligned(*in, 4)), even = EVEN(four), odd = ODD(four);
  const int32_t *word = *code;
  add_products(even, (uint32_t)word[0], a, b);
  add_products(even, (uint32_t)word[1], c, d);
  add_products(odd, (uint32_t)word[2], a, b);
  add_products(odd, (uint32_t)word[3], c, d);
  *in += 4, *code += 4;
#endif
}

#ifdef __ARM_FEATURE_MVE
/* Adds the products of the next sixteen inputs to the sums of A, B and those of the second pair. Words read as bytes are
   those of A and of B, one less where A is less than zero, for inputs at even places and then at uneven ones. */
#define PAIR_OF(even, uneven, first, second)                                                          \
  "vmov q5, " uneven "\n\tvshrnb.i16 " uneven ", " even ", #8\n\tvmovnt.i16 " even ", q5\n\tvshr.s8 q5, " even ", #7\n\t" \
  "vsub.i8 " uneven ", " uneven ", q5\n\tvmladava.s8 " first ", " even ", q4\n\tvmladava.s8 " second ", " uneven ", q4\n\t"
static inline void add_sixteen(const int8_t **in, const int32_t **code, int32_t *sums) {
  __asm__("vld40.32 {q0, q1, q2, q3}, [%1]\n\tvld41.32 {q0, q1, q2, q3}, [%1]\n\tvld42.32 {q0, q1, q2, q3}, [%1]\n\t"
          "vld43.32 {q0, q1, q2, q3}, [%1]!\n\tvldrb.u8 q4, [%0], #16\n\t" PAIR_OF("q0", "q2", "%2", "%3")
          PAIR_OF("q1", "q3", "%4", "%5")
          : "+r"(*in), "+r"(*code), "+Te"(sums[0]), "+Te"(sums[1]), "+Te"(sums[2]), "+Te"(sums[3])
          : : "q0", "q1", "q2", "q3", "q4", "q5", "memory");
}
#endif

static void vector(const void *layer, unsigned from, unsigned until) {
  const struct vector *v = layer;
  const int32_t *code = v->code;
  const unsigned filters = v->out->channels;
  (void)from, (void)until;
  for (unsigned f = 0; f < filters;) {
    const int8_t *in = v->in->data;
    int32_t a = 0, c = 0;
    uint32_t b = 0, d = 0;
    const int8_t *end = in + 4u * v->fours;
#ifdef __ARM_FEATURE_MVE
    int32_t sums[4] = {0};
    for (unsigned n = v->fours / 4; n > 0; --n) add_sixteen(&in, &code, sums);
#endif
    while (in != end) add_four(&in, &code, &a, &b, &c, &d);
    int32_t sum = a, next = sum_of_second(a, b), third = c, fourth = sum_of_second(c, d);
#ifdef __ARM_FEATURE_MVE
    sum += sums[0], next += sums[1], third += sums[2], fourth += sums[3];
#endif
    for (unsigned last = f + 4; f != last && f < filters; ++f, sum = next, next = third, third = fourth) {
      const struct filter *filter = v->filters + f;
      v->out->data[f] = level(sum, filter->bias, filter->multiplier, filter->right, v->out_zero);
    }
  }
  if (clips(v->low, v->high)) clip(v->out->data, filters, v->low, v->high);
}
