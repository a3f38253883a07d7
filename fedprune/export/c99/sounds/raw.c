/* The features are the samples themselves, in [-1, 1). */
static void frame(const int16_t *samples, float *values) { values[0] = (float)samples[0] / 32768.0f; }
