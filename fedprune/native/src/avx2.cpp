// Kernels of the instruction set avx2.
#define NAMESPACE avx2
#define LANES 8
#define DENSE_TILE 2
#include "kernels.inc"
