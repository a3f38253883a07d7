/* MAXIMUM. */
static int32_t larger_of(const struct combine *s, int32_t a, int32_t b) { return (void)s, a > b ? a : b; }
