"""GraNet: gradual pruning with zero-cost neuroregeneration (Liu et al., NeurIPS 2021, arXiv 2106.10404)."""

from collections.abc import Mapping

from fedprune.methods.layers import Shapes, adjusted, fractions_in_range, gradual, scattered
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import every, prune, regrow
from fedprune.pruning.schedules import cosine
from fedprune.types import Ask, Found, Method, Model


def granet(
    layers: Shapes,
    *,
    density: float,
    initial: float = 1.0,
    period: int = 1,
    begin: int = 0,
    stop: int = 100,
    fraction: float = 0.5,
    seed: int = 0,
) -> Method:
    """Every ``period`` rounds, prune all layers together along GMP's cubic, then swap as RigL does (alg. 1).

    The swap is fraction/2 · (1 + cos(πr/stop)) of each layer's kept weights, by gradients that devices take of the
    model pruned already, so that what was just pruned may grow again, from 0. ``initial`` is d₀, in the paper
    1 (dense to sparse) or 0.5, then with random masks of Erdős–Rényi-kernel densities. Rounds stand for steps.
    """
    along = gradual(density, initial, begin, stop)
    _, thinned = adjusted(every(period, prune(criteria.magnitude, along, allocate=ranked())))
    fractions_in_range(fraction=fraction)
    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    wanted, swapped = adjusted(every(period, swap, until=stop))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        thin = thinned(model, {}, round)
        return {name: ask._replace(masks=thin.masks) for name, ask in wanted(thin, round, found).items()}

    def act(model: Model, found: Found, round: int) -> Model:
        thin: Model = thinned(model, {}, round)
        return swapped(thin, found, round)

    return Method(scattered(layers, initial, seed), asks=asks, act=act)
