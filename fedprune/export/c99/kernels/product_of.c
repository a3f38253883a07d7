/* MUL of two maps of any shapes. */
static int32_t product_of(const struct combine *s, int32_t a, int32_t b) { return scaled(a * b, s->multiplier, s->shift); }
