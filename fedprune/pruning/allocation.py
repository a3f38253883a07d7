"""How a density over all layers is shared out among them."""

from collections.abc import Mapping

import numpy as np

from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import Allocation, Densities, Scores


def uniform(scores: Scores, density: float) -> Densities:
    """Every layer gets the same density."""
    return dict.fromkeys(scores, density)


def ranked(*, floor: float = 0.0) -> Allocation:
    """Layers share by one ranking of all scores: global pruning.

    ``floor`` is the least density of a layer (the minimum threshold of Global MP, Gupta et al., 2022), met by taking
    from the others; the total is exact: ``kept_count(density, size of all)`` units.
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor {floor} is outside [0, 1]")

    def allocate(scores: Scores, density: float) -> Densities:
        sizes = {name: value.size for name, value in scores.items()}
        total = kept_count(density, sum(sizes.values()))
        least = {name: min(size, int(np.ceil(floor * size - 1e-9))) for name, size in sizes.items()}
        if sum(least.values()) > total:
            raise ValueError(f"a floor of {floor} in every layer keeps more than the density {density} allows")
        # What the floor guarantees is kept first, whatever its score; the others' ranking fills up the total.
        others = [value[~top_k(value, least[name])] for name, value in scores.items()]
        mask = top_k(np.concatenate(others), total - sum(least.values()))
        parts = np.split(mask, np.cumsum([len(other) for other in others])[:-1])
        counts = {name: least[name] + int(np.count_nonzero(part)) for name, part in zip(sizes, parts, strict=True)}
        return {name: count / sizes[name] for name, count in counts.items()}

    return allocate


def erk(shapes: Mapping[str, tuple[int, ...]]) -> Allocation:
    """Erdős–Rényi-Kernel: density of a layer ∝ Σ dims / Π dims, capped at 1 (Evci et al., RigL, 2020, §3).

    What a capped layer cannot take is shared out again, so that the total stays density · Σ sizes.
    """
    return _shared({name: sum(shape) / float(np.prod(shape)) for name, shape in shapes.items()})


def at_least(floor: float, allocate: Allocation) -> Allocation:
    """``allocate``, with every layer's density raised to at least ``floor``; the total grows by what that takes."""
    return lambda scores, density: {name: max(floor, value) for name, value in allocate(scores, density).items()}


_ROUNDING = 1e-12  # what a share may lack of 1 without meaning it


def _shared(weight: Mapping[str, float]) -> Allocation:
    def allocate(scores: Scores, density: float) -> Densities:
        sizes = {name: scores[name].size for name in scores}
        budget = density * sum(sizes.values())
        full: set[str] = set()
        while True:
            rest = [name for name in sizes if name not in full]
            share = sum(weight[name] * sizes[name] for name in rest)
            scale = (budget - sum(sizes[name] for name in full)) / share if rest else 0.0
            over = {name for name in rest if scale * weight[name] > 1 - _ROUNDING}
            if not over:
                return {name: 1.0 if name in full else scale * weight[name] for name in sizes}
            full |= over

    return allocate
