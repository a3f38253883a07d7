/* Maps of activations, and rounding as in TensorFlow Lite's reference kernels, bit for bit. */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "these kernels read several bytes at once and expect the least significant one first"
#endif
#if !defined(__arm__) || defined(__ARM_FEATURE_UNALIGNED)
#define LOADS_UNALIGNED 1
#endif
#if defined(__thumb2__) && defined(__ARM_FEATURE_UNALIGNED) && __ARM_ARCH >= 7
#define BY_HAND 1 /* Cortex-M3, M4, M7 and their successors: inner loops in assembly */
#endif

#if defined(__ARM_FEATURE_DSP) || defined(__ARM_FEATURE_SAT)
#include <arm_acle.h>
#endif
#ifdef __ARM_FEATURE_MVE
#include <arm_mve.h>
#endif
#ifdef __ARM_FEATURE_MVE
#include <arm_mve.h>
#endif

/* An activation, channels last. Of its `height` rows the last `rows` are there: row y lies at y % rows. */
struct map {
  int8_t *data;
  uint16_t height, width, channels, rows;
};

#if defined(__GNUC__)
#define SMALL __attribute__((noinline, unused)) /* called often enough that one copy of it is worth a call */
#else
#define SMALL
#endif

static SMALL int8_t *row_of(const struct map *map, unsigned y) {
  return map->data + (y < map->rows ? y : y % map->rows) * map->width * map->channels;
}

static inline uint32_t four_bytes(const int8_t *from) {
  uint32_t value;
  __builtin_memcpy(&value, from, 4);
  return value;
}

#ifdef __ARM_FEATURE_DSP
/* Bytes 0 and 2 as halves with their signs, bytes 1 and 3, and two words' lower or upper halves; compilers take twice as
   many instructions. */
static inline uint32_t even_bytes(uint32_t x) { return (uint32_t)__sxtb16(x); }

static inline uint32_t odd_bytes(uint32_t x) {
  uint32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(x));
  return halves;
}

static inline uint32_t lower_halves(uint32_t a, uint32_t b) {
  uint32_t halves;
  __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(halves) : "r"(a), "r"(b));
  return halves;
}

static inline uint32_t upper_halves(uint32_t a, uint32_t b) {
  uint32_t halves;
  __asm__("pkhtb %0, %1, %2, asr #16" : "=r"(halves) : "r"(b), "r"(a));
  return halves;
}
#endif

static inline int32_t clamp(int32_t value, int32_t low, int32_t high) {
  if (value < low) value = low;
  return value > high ? high : value;
}

/* x * multiplier / 2^31, halves upwards. */
static inline int32_t product(int32_t x, int32_t multiplier) {
  return (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
}

/* x * multiplier / 2^31, halves upwards, of x as its double, which must be within 2^31. */
static inline int32_t product_of_half(int32_t doubled, int32_t multiplier) {
#ifdef __ARM_FEATURE_DSP
  int32_t high;
  __asm__("smmulr %0, %1, %2" : "=r"(high) : "r"(doubled), "r"(multiplier));
  return high;
#else
  return (int32_t)(((int64_t)doubled * multiplier + (INT64_C(1) << 31)) >> 32);
#endif
}

/* x / 2^right, halves away from zero; right is at least 1. */
static inline int32_t shifted(int32_t x, int right) {
  return (x + (int32_t)((1u << right) >> 1) + (x >> 31)) >> right;
}

/* x / 2^right + zero, as `shifted` rounds. */
static inline int32_t shifted_to(int32_t x, int right, int32_t zero) {
#ifdef BY_HAND /* the last bit that is shifted out is what rounding adds */
  x += x >> 31;
  __asm__("asrs %0, %0, %1\n\tadc %0, %0, %2" : "+r"(x) : "r"(right), "r"(zero) : "cc");
  return x;
#else
  return shifted(x, right) + zero;
#endif
}

/* x times the factor multiplier / 2^31 * 2^shift. */
static inline int32_t scaled(int32_t x, int32_t multiplier, int shift) {
#ifdef MODEL_HAS_LARGE_FACTORS /* of a half or more */
  if (shift >= 0) return product((int32_t)((uint32_t)x << shift), multiplier);
#endif
  return shifted(product(x, multiplier), -shift);
}

static inline int32_t saturated(int32_t value) {
#ifdef __ARM_FEATURE_SAT
  return __ssat(value, 8);
#else
  return clamp(value, -128, 127);
#endif
}

/* How the sums of a filter become int8: (sum + bias) times a factor, shifted to the right. */
struct filter {
  int32_t multiplier;
#ifdef MODEL_HAS_LARGE_BIASES
  int32_t bias;
  int8_t right;
#else
  int32_t right : 8, bias : 24; /* a shift by a register reads its lowest byte */
#endif
};

/* A sum of a filter as int8, before its activation. */
static inline int8_t level(int32_t sum, int32_t bias, int32_t multiplier, int right, int32_t zero) {
#ifdef MODEL_HAS_LARGE_BIASES
  return (int8_t)saturated(scaled(sum + bias, multiplier, -right) + zero);
#else
#ifdef MODEL_HAS_LARGE_FACTORS
  if (right <= 0) return (int8_t)saturated(scaled(sum + bias, multiplier, -right) + zero);
#endif
  return (int8_t)saturated(shifted_to(product_of_half(sum * 2 + bias * 2, multiplier), right, zero));
#endif
}

/* Holds n values within the limits of an activation. */
static SMALL void clip(int8_t *values, unsigned n, int32_t low, int32_t high) {
  for (; n > 0; --n, ++values) *values = (int8_t)clamp(*values, low, high);
}

/* Whether an activation has narrower limits than int8. */
static inline int clips(int32_t low, int32_t high) { return low > -128 || high < 127; }

/* A value of a row of int8, or where it is wide of int16. */
static inline int32_t value_at(const int8_t *row, unsigned at, unsigned wide) {
  return wide ? ((const int16_t *)(const void *)row)[at] : row[at];
}

static inline void set_value(int8_t *row, unsigned at, unsigned wide, int32_t value) {
  if (wide) ((int16_t *)(void *)row)[at] = (int16_t)value;
  else row[at] = (int8_t)value;
}
