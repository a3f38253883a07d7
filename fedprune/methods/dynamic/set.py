"""SET: sparse evolutionary training (Mocanu et al., Nature Communications 2018, arXiv 1707.04780)."""

from fedprune.methods.layers import Shapes, adjusted, density_in_range, fractions_in_range, scattered
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, regrow
from fedprune.pruning.schedules import constant
from fedprune.types import Method


def set(
    layers: Shapes, *, density: float, period: int = 1, stop: int = 100, fraction: float = 0.3, seed: int = 0
) -> Method:
    """Every ``period`` rounds until ``stop``, swap a ``fraction`` ζ of each layer's kept weights for pruned ones.

    Dropped are the smallest |θ|, grown as many at random (alg. 1; ζ = 0.3). Masks begin at random, of densities by
    Erdős–Rényi (eq. 1), by its kernel form for convolutions; the paper's ε is here the density that it comes to. Not
    done: drawing what is grown at random, since a revived weight begins at 0; growing what was just dropped.
    """
    fractions_in_range(fraction=fraction)
    rule = regrow(criteria.magnitude, criteria.random, constant(fraction))
    asks, act = adjusted(every(period, rule, until=stop), seed)
    return Method(scattered(layers, density_in_range(density), seed), asks=asks, act=act)
