"""MdGf: N:M by a mask that closes bit by bit (Bambhaniya et al., Progressive Gradient Flow, 2024, arXiv 2402.04744)."""

from math import exp

from fedprune.methods.layers import Shapes
from fedprune.methods.patterns import patterned
from fedprune.types import Method


def mdgf(
    layers: Shapes, *, n: int = 2, m: int = 4, beta: float = 0.15, exponential: bool = False, begin: int = 0,
    stop: int = 10,
) -> Method:  # fmt: skip
    """Compute with θ ⊙ (m + (1 − m) D), m the N largest |θ| of every M inputs, where D falls to 0 (mask decay).

    D is 1 until round ``begin``; t rounds later max(0, 1 − β t), or e^(−β t), ``exponential``. Gradients are θ's,
    straight through, so that what is left out goes on learning (`training.patterned`). After round ``stop`` the server
    keeps the N:M of the average, and the rounds that follow are hard. Only weights travel, D follows from the round.
    (m): rounds stand for steps, and β, which the paper sets by the length of a run.
    """
    if not beta > 0:
        raise ValueError(f"beta {beta} is not above 0")

    def left(round: int) -> float:
        passed = max(0, round - begin) * beta
        return exp(-passed) if exponential else max(0.0, 1 - passed)

    return patterned(layers, lambda round: (n, m, left(round)), begin, stop)
