/* SLICE and DYNAMIC_UPDATE_SLICE in a loop: bytes in a row, from a place and to a place that move on every turn. */

struct copy {
  const struct map *in, *out;
  int32_t from, from_step, to, to_step; /* bytes, and how far the next turn goes */
  uint32_t bytes;
};

static int32_t turn; /* of the loop that runs */

static void copy(const void *layer, unsigned first, unsigned until) {
  const struct copy *c = layer;
  const int8_t *from = c->in->data + c->from + turn * c->from_step;
  int8_t *to = c->out->data + c->to + turn * c->to_step;
  (void)first, (void)until;
  for (uint32_t i = 0; i < c->bytes; ++i) to[i] = from[i];
}
