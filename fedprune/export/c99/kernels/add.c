/* ADD of two maps of one shape. The larger of their scales is that of b, whose factor is a half. */

struct add {
  const struct map *a, *b, *out;
  int32_t a_multiplier, out_multiplier;
  int8_t a_right, out_right, a_zero, b_zero, out_zero, low, high;
};

static void add(const void *layer, unsigned from, unsigned until) {
  const struct add *s = layer;
  const unsigned n = (unsigned)s->out->width * s->out->channels;
  const int32_t a_multiplier = s->a_multiplier, multiplier = s->out_multiplier, a_zero = s->a_zero, b_zero = s->b_zero;
  const int32_t zero = s->out_zero * (1 << s->out_right);
  const int a_right = s->a_right, right = s->out_right;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *a = row_of(s->a, y), *b = row_of(s->b, y);
    int8_t *to = row_of(s->out, y);
    const int8_t *end = a + n;
#ifdef __ARM_FEATURE_MVE
    for (; end - a >= 4; a += 4, b += 4, to += 4) { /* the same of four values */
      int32x4_t first = vqrdmulhq_n_s32(vshlq_n_s32(vsubq_n_s32(vldrbq_s32(a), a_zero), 20), a_multiplier);
      first = vrshlq_n_s32(vaddq_s32(first, vshrq_n_s32(first, 31)), -a_right);
      const int32x4_t both = vaddq_s32(first, vshlq_n_s32(vsubq_n_s32(vldrbq_s32(b), b_zero), 19));
      const int32x4_t sum = vqrdmulhq_n_s32(both, multiplier);
      const int32x4_t level = vrshlq_n_s32(vaddq_n_s32(vaddq_s32(sum, vshrq_n_s32(sum, 31)), zero), -right);
      vstrbq_s32(to, vmaxq_s32(vminq_s32(level, vdupq_n_s32(127)), vdupq_n_s32(-128)));
    }
#endif
    for (; a != end; ++a, ++b, ++to) {
      const int32_t first = shifted(product_of_half((*a - a_zero) * (1 << 21), a_multiplier), a_right);
      const int32_t sum = product_of_half((first + (*b - b_zero) * (1 << 19)) * 2, multiplier);
      *to = (int8_t)saturated((sum + zero + ((1 << right) >> 1) + (sum >> 31)) >> right);
    }
    if (clips(s->low, s->high)) clip(to - n, n, s->low, s->high);
  }
}
