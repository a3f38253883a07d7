/* BATCH_MATMUL: in each row of maps a matrix times a matrix, either of which may be transposed, or serve all rows. */

struct matmul {
  const struct map *a, *b, *out;
  int32_t multiplier;
  uint16_t inner;
  uint8_t a_turned, b_turned;
  int8_t shift, a_zero, b_zero, out_zero;
};

static void matmul(const void *layer, unsigned from, unsigned until) {
  const struct matmul *m = layer;
  const unsigned columns = m->out->channels, inner = m->inner;
  const unsigned a_next = m->a_turned ? m->a->channels : 1, b_next = m->b_turned ? 1 : m->b->channels;
  const unsigned a_step = m->a_turned ? 1 : m->a->channels, b_step = m->b_turned ? m->b->channels : 1;
  for (unsigned y = from; y < until; ++y) {
    const int8_t *a = row_of(m->a, m->a->height > 1 ? y : 0), *b = row_of(m->b, m->b->height > 1 ? y : 0);
    int8_t *to = row_of(m->out, y);
    for (unsigned i = 0; i < m->out->width; ++i)
      for (unsigned j = 0; j < columns; ++j) {
        const int8_t *first = a + i * a_step, *second = b + j * b_step;
        int32_t sum = 0;
        for (unsigned k = inner; k > 0; --k, first += a_next, second += b_next)
          sum += (*first - m->a_zero) * (*second - m->b_zero);
        *to++ = (int8_t)clamp(scaled(sum, m->multiplier, m->shift) + m->out_zero, -128, 127);
      }
  }
}
