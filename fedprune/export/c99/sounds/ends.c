/* What features.h declares. The model says how its inputs are normalised and quantised. */

static const float mean[] = MODEL_INPUT_MEAN, std[] = MODEL_INPUT_STD;

static int8_t quantised(float value, unsigned at) {
  const unsigned i = at % (sizeof mean / sizeof *mean);
  const float real = (value - mean[i]) / std[i] / MODEL_INPUT_SCALE;
  const float half = real < 0.0f ? real - 0.5f : real + 0.5f;
  if (!(half > -256.0f)) return -128; /* before it is an integer, which could not hold it; also what is no number */
  if (half > 256.0f) return 127;
  const int level = (int)half + MODEL_INPUT_ZERO_POINT;
  return (int8_t)(level < -128 ? -128 : level > 127 ? 127 : level);
}

void model_features(const int16_t *samples, float *features) {
  for (unsigned f = 0; f < FEATURES_FRAMES; ++f) frame(samples + f * STRIDE, features + f * FEATURES_VALUES);
}

void model_quantise(const float *features, int8_t *input) {
  for (unsigned i = 0; i < FEATURES_COUNT; ++i) input[i] = quantised(features[i], i);
}

void model_hear(const int16_t *samples, int8_t *input) {
  float values[FEATURES_VALUES];
  for (unsigned f = 0; f < FEATURES_FRAMES; ++f) {
    frame(samples + f * STRIDE, values);
    for (unsigned i = 0; i < FEATURES_VALUES; ++i)
      input[f * FEATURES_VALUES + i] = quantised(values[i], f * FEATURES_VALUES + i);
  }
}
