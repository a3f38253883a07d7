/* How a filter's sum of 64 bits becomes int16: bias, a factor of 16 bits, a shift. */
struct wide_filter {
  int32_t bias;
  uint16_t multiplier;
  int8_t right;
};
