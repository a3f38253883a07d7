"""RigL: drop by magnitude, grow by gradient, at a density that stays (Evci et al., ICML 2020, arXiv 1911.11134)."""

from fedprune.methods.layers import Shapes, adjusted, density_in_range, fractions_in_range, scattered
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, regrow
from fedprune.pruning.schedules import cosine
from fedprune.types import Method


def rigl(
    layers: Shapes, *, density: float, period: int = 10, stop: int = 100, fraction: float = 0.3, seed: int = 0
) -> Method:
    """Every ``period`` rounds, swap α/2 · (1 + cos(πr/stop)) of each layer's kept weights; α is ``fraction``.

    Dropped are the smallest |θ|, grown from 0 the largest |∂L/∂θ| of pruned weights, averaged over devices, of which
    each sends as many as a layer grows (alg. 1). Masks begin at random, of Erdős–Rényi-kernel densities. Rounds stand
    for steps, 100 apart in the paper, until three quarters of them are over. Not done: growing what was just dropped.
    """
    fractions_in_range(fraction=fraction)
    rule = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    asks, act = adjusted(every(period, rule, until=stop), seed)
    return Method(scattered(layers, density_in_range(density), seed), asks=asks, act=act)
