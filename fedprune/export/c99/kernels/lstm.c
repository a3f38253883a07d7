/* UNIDIRECTIONAL_SEQUENCE_LSTM on int8 with a cell of int16: what was given last, and the cell, stay from run to run. */

struct lstm_gate {
  const int8_t *weights, *again; /* of the input, and of what was given last */
  const int32_t *bias;
  int32_t multiplier, again_multiplier;
  int8_t shift, again_shift;
};

struct lstm {
  const struct map *in, *hidden, *cell, *out;
  const struct lstm_gate *gates; /* input, forget, cell, output */
  const uint16_t *points;
  int32_t keep_multiplier, new_multiplier, out_multiplier, cell_multiplier;
  uint16_t inputs, units, steps;
  int16_t most;
  int8_t in_zero, out_zero, keep_shift, new_shift, out_shift;
  uint8_t cell_right;
};

static inline int32_t sixteen(int32_t value) { return clamp(value, -32768, 32767); }

static SMALL int32_t gated(const struct lstm *s, unsigned which, unsigned unit, const int8_t *in) {
  const struct lstm_gate *gate = s->gates + which;
  const int8_t *weight = gate->weights + unit * s->inputs, *again = gate->again + unit * s->units;
  int32_t sum = gate->bias[unit], more = 0;
  for (unsigned i = 0; i < s->inputs; ++i) sum += weight[i] * (in[i] - s->in_zero);
  for (unsigned i = 0; i < s->units; ++i) more += again[i] * (s->hidden->data[i] - s->out_zero);
  sum = sixteen(scaled(sum, gate->multiplier, gate->shift));
  more = sixteen(scaled(more, gate->again_multiplier, gate->again_shift));
  return curved(s->points, 3 * sixteen(sum + more), which == 2 ? 8 : 9);
}

static void lstm(const void *layer, unsigned from, unsigned until) {
  const struct lstm *s = layer;
  const int8_t *in = s->in->data;
  int8_t *to = s->out->data, *cells = s->cell->data;
  (void)from, (void)until;
  for (unsigned step = 0; step < s->steps; ++step, in += s->inputs, to += s->units) {
    for (unsigned u = 0; u < s->units; ++u) {
      const int32_t kept = gated(s, 1, u, in) * value_at(cells, u, 1), taken = gated(s, 0, u, in) * gated(s, 2, u, in);
      int32_t cell = sixteen(scaled(kept, s->keep_multiplier, s->keep_shift));
      cell = sixteen(cell + sixteen(scaled(taken, s->new_multiplier, s->new_shift)));
      if (s->most) cell = clamp(cell, -s->most, s->most);
      set_value(cells, u, 1, cell);
      cell = (cell * s->cell_multiplier + (int32_t)((1u << s->cell_right) >> 1)) >> s->cell_right;
      cell = curved(s->points, cell, 8) * gated(s, 3, u, in);
      to[u] = (int8_t)clamp(scaled(cell, s->out_multiplier, s->out_shift) + s->out_zero, -128, 127);
    }
    __builtin_memcpy(s->hidden->data, to, s->units);
  }
}
