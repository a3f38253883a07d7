"""Adaptive batch-norm selection: draw coarse-pruned candidates, choose one by loss after BN recalibration (FedTiny).

What devices measure travels in federated/rounds/phases; here are the pure halves: the pool and the choice.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fedprune.counter_rng import generator
from fedprune.pruning import criteria
from fedprune.pruning.allocation import erk
from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import Densities, Masks, Moments, Params, Tensor

Counts = Mapping[str, int]
"""Kept weights of each layer: with the weights, all there is to a candidate, since its masks follow."""

Noise = Callable[[Mapping[str, tuple[int, ...]], float, np.random.Generator], Densities]
"""(shapes, density, generator) -> noisy density of each layer, in [0, 1]."""


class Pool(NamedTuple):
    """Candidates to compare, as ``bn_statistics`` and ``losses`` of `fedprune.measures` are asked."""

    candidates: Sequence[Masks]
    merge: Callable[[Sequence[Moments]], Moments]
    """How devices' statistics of a layer become one."""
    statistics: Params = MappingProxyType({})
    """Merged statistics to compare them under, as of ``bn_statistics``; without any, the model's own."""


_TOLERANCE = 0.02  # of the density asked for
_MOST_DRAWS = 100_000


def around_uniform(spread: float = 0.5) -> Noise:
    """d_l = d · (1 + U(−spread, spread)), clamped to 1: FedTiny's default.

    >>> drawn = around_uniform(0.5)({"conv": (8, 8), "head": (4, 8)}, 0.2, np.random.default_rng(0))
    >>> all(0.1 <= density <= 0.3 for density in drawn.values())
    True
    """

    def draw(shapes: Mapping[str, tuple[int, ...]], density: float, rng: np.random.Generator) -> Densities:
        return {name: min(1.0, density * (1 + spread * (2 * rng.random() - 1))) for name in shapes}

    return draw


def around_erk(spread: float = 1.0) -> Noise:
    """d_l = ERK_l · (1 + U(−spread, spread)), clamped to 1.

    >>> around_erk(spread=0)({"narrow": (4, 4), "wide": (4, 12)}, 0.25, np.random.default_rng(0))
    {'narrow': 0.3333333333333333, 'wide': 0.2222222222222222}
    """

    def draw(shapes: Mapping[str, tuple[int, ...]], density: float, rng: np.random.Generator) -> Densities:
        base = erk(shapes)({name: np.empty(shape, np.bool_) for name, shape in shapes.items()}, density)
        return {name: min(1.0, base[name] * (1 + spread * (2 * rng.random() - 1))) for name in shapes}

    return draw


def pool_size(density: float) -> int:
    """C = 0.1 / d candidates, at least 1 (from the authors' experiments; a default, never a law).

    >>> pool_size(0.01), pool_size(0.5)
    (10, 1)
    """
    return max(1, round(0.1 / density))


def candidate_counts(
    shapes: Mapping[str, tuple[int, ...]], density: float, size: int, *, seed: int, noise: Noise | None = None
) -> tuple[Counts, ...]:
    """Layer-wise kept counts of ``size`` candidates, each within 2 % of ``density`` over all layers.

    A candidate is drawn anew until it lands there. Raises ValueError where none does: the layers are too small for the
    density, since every layer keeps at least one weight.

    >>> pool = candidate_counts({"conv": (10, 10), "head": (30, 30)}, 0.1, 3, seed=0)
    >>> len(pool), all(98 <= sum(counts.values()) <= 102 for counts in pool)
    (3, True)
    """
    noise = noise or around_uniform()
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    total = sum(sizes.values())
    least = max(len(sizes), int(density * total))

    def lands(kept: int) -> bool:
        return abs(kept / total - density) / density < _TOLERANCE

    rng = generator(seed, "candidates")
    pool: list[Counts] = []
    for _ in range(_MOST_DRAWS if lands(least) or lands(least + 1) else 0):  # else no whole number of weights does
        drawn = noise(shapes, density, rng)
        counts = {name: max(1, kept_count(drawn[name], sizes[name])) for name in sizes}
        if lands(sum(counts.values())):
            pool.append(counts)
            if len(pool) == size:
                return tuple(pool)
    raise ValueError(f"no candidate of density {density} in {_MOST_DRAWS} draws: {len(sizes)} layers, {total} weights")


def candidate_masks(weights: Params, counts: Counts) -> Masks:
    """Top ``counts[l]`` of |θ_l| for each layer l: candidates over the same θ, nested layer by layer.

    >>> candidate_masks({"w": np.array([0.1, -3.0, 2.0])}, {"w": 1})
    {'w': array([False,  True, False])}
    """
    return {name: top_k(criteria.magnitude(weights[name]), count) for name, count in counts.items()}


def choose(losses: Params) -> int:
    """argmin_c of the candidates' mean development losses, as ``losses`` merges them; ties to the first.

    A candidate with a loss that is not finite is chosen only if all are such. 0 where nobody could compare. Raises
    ValueError where nobody had an example.

    >>> choose({"loss": np.array([2.0, 2.4]), "examples": np.asarray(5)})
    0
    """
    if not losses:
        return 0
    if not int(losses["examples"]):
        raise ValueError("no device has development examples to choose a candidate with")
    return int(np.argmin(np.where(np.isfinite(losses["loss"]), losses["loss"], np.inf)))


def statistics_of(index: int, tensors: Params) -> dict[str, Tensor]:
    """Running statistics of a candidate by their names in a model, from ``i/layer.mean`` and ``i/layer.var``.

    >>> statistics_of(1, {"0/bn.mean": np.zeros(2), "1/bn.mean": np.ones(2)})
    {'bn.running_mean': array([1., 1.])}
    """
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        number, _, key = name.partition("/")
        if number == str(index) and key.endswith((".mean", ".var")):
            layer, _, kind = key.rpartition(".")
            found[f"{layer}.running_{kind}"] = value
    return found
