"""GMP: gradual magnitude pruning along a cubic (Zhu and Gupta, 2017, arXiv 1710.01878)."""

from fedprune.methods.layers import Shapes, adjusted, dense, gradual
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, prune
from fedprune.types import Method


def gmp(
    layers: Shapes, *, density: float, initial: float = 1.0, period: int = 1, begin: int = 0, stop: int = 100
) -> Method:
    """Keep the largest |θ| of each layer, every ``period`` rounds down to d(t) = d + (d₀ − d)(1 − (t − t₀)/(T − t₀))³.

    That is eq. 1 in densities; t counts rounds, t₀ = ``begin``, T = ``stop``, d₀ = ``initial``; every layer gets the
    same density, as in the paper. A weight that is pruned stays so, since what is pruned is 0 everywhere: the paper's
    masks may reopen while the density falls (m).
    """
    along = gradual(density, initial, begin, stop)
    asks, act = adjusted(every(period, prune(criteria.magnitude, along)))
    return Method(dense(layers), asks=asks, act=act)
