/* The order of work. A step makes rows of one map; it first has the steps whose maps it reads make the rows it needs, so
   that a map which only the next step reads never has more than a few rows in memory. */

typedef void kernel(const void *layer, unsigned from, unsigned until);

struct step {
  kernel *run;
  const void *layer;
  uint16_t rows;      /* of the output */
  uint16_t band;      /* made at once */
  int16_t reach;      /* making rows up to n reads rows up to n * stride / per + reach, rounded up */
  uint8_t stride, per;
  uint16_t beside[2]; /* steps whose maps this one reads row by row; its own number for none */
};

static uint16_t made[STEPS];

static void make(const struct step *steps, unsigned index, unsigned until) {
  const struct step *step = steps + index;
  while (made[index] < until) {
    const unsigned from = made[index], most = from + step->band, to = most < step->rows ? most : step->rows;
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned beside = step->beside[i];
#ifdef MODEL_HAS_MORE_ROWS /* a map of more rows than the one it is made of */
      const int needed = (int)((to * step->stride + step->per - 1) / step->per) + step->reach, rows = steps[beside].rows;
#else
      const int needed = (int)to * step->stride + step->reach, rows = steps[beside].rows;
#endif
      if (beside != index) make(steps, beside, (unsigned)(needed < rows ? needed : rows));
    }
    step->run(step->layer, from, to);
    made[index] = (uint16_t)to;
  }
}
