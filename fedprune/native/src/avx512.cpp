// Kernels of the instruction set avx512.
#define NAMESPACE avx512
#define LANES 16
#define DENSE_TILE 4
#include "kernels.inc"
