/* TRANSPOSE, DEPTH_TO_SPACE and their like: values read in even steps, in loops around loops. */

struct move {
  const struct map *in, *out;
  int32_t byte, inner_bytes, outer_bytes, right_bytes, left_bytes, step; /* where the first is, and how far the next */
  uint32_t count;                                                        /* of the innermost loop */
  int16_t row, inner_rows, outer_rows, right_rows, left_rows;
  uint16_t inner_count, right_count, left_count;
};

static void move(const void *layer, unsigned from, unsigned until) {
  const struct move *m = layer;
  for (unsigned y = from; y < until; ++y) {
    int8_t *to = row_of(m->out, y);
    const int outer = (int)(y / m->inner_count), inner = (int)(y % m->inner_count);
    for (int left = 0; left < m->left_count; ++left)
      for (int right = 0; right < m->right_count; ++right) {
        const int row = m->row + outer * m->outer_rows + inner * m->inner_rows + left * m->left_rows + right * m->right_rows;
        const int8_t *cell = row_of(m->in, (unsigned)row) + m->byte + outer * m->outer_bytes + inner * m->inner_bytes +
                             left * m->left_bytes + right * m->right_bytes;
        for (int i = 0; i < (int)m->count; ++i) *to++ = cell[i * m->step];
      }
  }
}
