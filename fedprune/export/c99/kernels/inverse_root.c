/* 1 / sqrt(x) as multiplier / 2^31 / 2^right, x at least 1: Newton's method with three bits above the point. */
static SMALL int32_t inverse_root(int32_t x, int *right) {
  *right = 0;
  if (x == 1) return 2147483647;
  int moved = 11;
  for (; x >= 1 << 29; x /= 4) ++moved;
  const int pairs = (__builtin_clz((uint32_t)x) - 1) / 2 - 1;
  moved -= pairs;
  const int32_t half = ((int32_t)((uint32_t)x << 2 * pairs) / 2 + 1) / 2;
  int32_t root = 1 << 28; /* one */
  for (unsigned i = 0; i < 5; ++i) {
    const int32_t cube = product(product(root, root), root), most = 2147483647 >> 6;
    root = (product(402653184, root) - product(half, cube > most ? 2147483647 : cube * 64)) * 8; /* 1.5 root - half root^3 */
  }
  root = product(root, 1518500250); /* sqrt(1/2) */
  if (moved < 0) return root * (1 << -moved);
  *right = moved;
  return root;
}
