/* From samples to mel bands: windows, a radix-2 Fourier transform in place, and logarithms, with no library. */

#define HALF (POINTS / 2)

/* cos(2 pi k / POINTS) and sin(2 pi k / POINTS), for k up to half of POINTS, from a quarter of the circle. */
static float cosine(unsigned k) { return k <= POINTS / 4 ? quarter[k] : -quarter[HALF - k]; }
static float sine(unsigned k) { return k <= POINTS / 4 ? quarter[POINTS / 4 - k] : quarter[k - POINTS / 4]; }

/* The transform of HALF complex numbers, real and imaginary parts in turn. */
static void transform(float *numbers) {
  for (unsigned i = 0, j = 0; i < HALF; ++i) { /* j is i with its bits in reverse */
    if (i < j)
      for (unsigned part = 0; part < 2; ++part) {
        const float kept = numbers[2 * i + part];
        numbers[2 * i + part] = numbers[2 * j + part];
        numbers[2 * j + part] = kept;
      }
    unsigned bit = HALF / 2;
    for (; bit && (j & bit); bit /= 2) j ^= bit;
    j |= bit;
  }
  for (unsigned at = 0; at < 2 * HALF; at += 4) /* pairs, whose factor is 1 */
    for (unsigned part = 0; part < 2; ++part) {
      const float one = numbers[at + part], other = numbers[at + 2 + part];
      numbers[at + part] = one + other;
      numbers[at + 2 + part] = one - other;
    }
  for (unsigned span = 2; span < HALF; span *= 2)
    for (unsigned k = 0; k < span; ++k) {
      const float c = cosine(k * (HALF / span)), s = sine(k * (HALF / span));
      for (unsigned at = k; at < HALF; at += 2 * span) {
        float *one = numbers + 2 * at, *other = one + 2 * span;
        const float real = other[0] * c + other[1] * s, imaginary = other[1] * c - other[0] * s;
        other[0] = one[0] - real;
        other[1] = one[1] - imaginary;
        one[0] += real;
        one[1] += imaginary;
      }
    }
}

/* Writes |X[k]|^2 of POINTS real numbers into numbers[2 k], for 0 < k < HALF. As HALF complex numbers they have been
   transformed at once, which leaves the spectra of the even ones and of the odd ones to be told apart, each doubled. */
static void powers(float *numbers) {
  transform(numbers);
  for (unsigned k = 1; k <= HALF / 2; ++k) {
    float *low = numbers + 2 * k, *high = numbers + 2 * (HALF - k);
    const float even_real = low[0] + high[0], even_imaginary = low[1] - high[1];
    const float odd_real = low[1] + high[1], odd_imaginary = high[0] - low[0];
    const float c = cosine(k), s = sine(k);
    const float real = odd_real * c + odd_imaginary * s, imaginary = odd_imaginary * c - odd_real * s;
    const float sum[2] = {even_real + real, even_imaginary + imaginary};
    const float difference[2] = {even_real - real, even_imaginary - imaginary};
    low[0] = sum[0] * sum[0] + sum[1] * sum[1];
    high[0] = difference[0] * difference[0] + difference[1] * difference[1];
  }
}

/* ln(x) of a normal number, to within a step or two of float: x = m 2^e, and ln(m) = 2 artanh((m - 1) / (m + 1)). */
static float logarithm(float x) {
  union {
    float number;
    uint32_t bits;
  } m = {x};
  int e = (int)(m.bits >> 23) - 127;
  m.bits = (m.bits & 0x7FFFFFu) | 0x3F800000u;
  if (m.number > 1.41421356f) {
    m.number *= 0.5f;
    ++e;
  }
  const float t = (m.number - 1.0f) / (m.number + 1.0f), u = t * t;
  const float series = 0.333333333f + u * (0.2f + u * (0.142857143f + u * 0.111111111f));
  return (float)e * 0.693147181f + 2.0f * (t + t * u * series);
}

/* The FEATURES_VALUES numbers of the frame that begins at a sample. */
static void frame(const int16_t *samples, float *values) {
#if COEFFICIENTS
  float *levels = scratch + POINTS;
#else
  float *levels = values;
#endif
  float *numbers = scratch;
  const float *weight = weights;
  for (unsigned i = 0; i < WINDOW; ++i) numbers[i] = (float)samples[i] * window[i <= WINDOW / 2 ? i : WINDOW - i];
  for (unsigned i = WINDOW; i < POINTS; ++i) numbers[i] = 0.0f;
  powers(numbers);
  for (unsigned b = 0; b < BANDS; ++b) {
    float energy = 0.0f;
    for (unsigned k = firsts[b]; k < firsts[b] + counts[b]; ++k) energy += *weight++ * numbers[2 * k];
    levels[b] = logarithm(energy > FLOOR ? energy : FLOOR);
  }
#if COEFFICIENTS
  for (unsigned c = 0; c < COEFFICIENTS; ++c) {
    float sum = 0.0f;
    for (unsigned b = 0; b < BANDS; ++b) sum += cosines[c * BANDS + b] * levels[b];
    values[c] = sum;
  }
#endif
}
