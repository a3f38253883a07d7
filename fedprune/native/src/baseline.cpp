// Kernels of the instruction set baseline.
#define NAMESPACE baseline
#define LANES 4
#define DENSE_TILE 2
#include "kernels.inc"
