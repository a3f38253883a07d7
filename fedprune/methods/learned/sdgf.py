"""SdGf: N:M by patterns that become sparser (Bambhaniya et al., Progressive Gradient Flow, 2024, arXiv 2402.04744)."""

from fedprune.methods.layers import Shapes
from fedprune.methods.patterns import patterned
from fedprune.types import Method


def sdgf(layers: Shapes, *, n: int = 2, m: int = 4, begin: int = 0, stop: int = 10, geometric: bool = False) -> Method:
    """Compute with one pattern after the other, the N largest |θ| of every M inputs in the end (structure decay).

    From round ``begin`` to ``stop`` they are (M − 1):M, ½M:M, ¼M:M, … N:M, each for as many rounds; or, ``geometric``,
    kN:kM with k = 8, 4, 2, 1, of which only the groups shrink (m). Gradients are θ's, straight through
    (`training.patterned`). After round ``stop`` the server keeps the N:M of the average, and the rounds that follow are
    hard. Only weights travel, the pattern follows from the round. (m): that stages are of one length.
    """
    halves = [m >> i for i in range(1, m.bit_length()) if m >> i > n]
    stages = [(k * n, k * m) for k in (8, 4, 2, 1)] if geometric else [(c, m) for c in (m - 1, *halves, n)]

    def pattern(round: int) -> tuple[int, int, float]:
        at = (round - begin - 1) * len(stages) // max(1, stop - begin)
        return (*stages[max(0, min(at, len(stages) - 1))], 0.0 if begin < round else 1.0)

    return patterned(layers, pattern, begin, stop)
