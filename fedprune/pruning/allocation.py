"""How a density over all layers is shared out among them."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import Allocation, Densities, Scores, Tensor


def uniform(scores: Scores, density: float) -> Densities:
    """Every layer gets the same density.

    >>> uniform({"small": np.ones(10), "large": np.ones(90)}, 0.1)
    {'small': 0.1, 'large': 0.1}
    """
    return dict.fromkeys(scores, density)


def ranked(*, floor: float = 0.0) -> Allocation:
    """Layers share by one ranking of all scores: global pruning.

    ``floor`` is the least density of a layer (the minimum threshold of Global MP, Gupta et al., 2022), met by taking
    from the others; the total is exact: ``kept_count(density, size of all)`` units.

    >>> scores = {"a": np.array([9.0, 8.0, 7.0, 6.0]), "b": np.array([5.0, 1.0, 1.0, 1.0])}
    >>> ranked()(scores, 0.5), ranked(floor=0.25)(scores, 0.5)
    ({'a': 1.0, 'b': 0.0}, {'a': 0.75, 'b': 0.25})
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


def by_module(module: Callable[[str], str]) -> Allocation:
    """Layers share by one ranking of x² / Σ v², over the v of the same module that are no smaller: LAMP of modules.

    ``module`` names that of a layer. The largest of each module has 1, the most there is, and so stays first. What a
    module is scaled by does not matter (Lee et al., ICLR 2021; DIMAP). Scores are |θ|; ties go by position.

    >>> scores = {"a": np.array([9.0, 8.0, 7.0, 6.0]), "b": np.array([5.0, 1.0, 1.0, 1.0])}
    >>> by_module(lambda name: name)(scores, 0.5), by_module(lambda name: "all")(scores, 0.5)
    ({'a': 0.75, 'b': 0.25}, {'a': 1.0, 'b': 0.0})
    """

    def allocate(scores: Scores, density: float) -> Densities:
        names: dict[str, list[str]] = {}
        for name in scores:
            names.setdefault(module(name), []).append(name)
        shares: dict[str, Tensor] = {}
        for mine in names.values():
            flat = np.concatenate([scores[name].ravel() for name in mine]).astype(np.float64)
            down = np.argsort(-flat, kind="stable")
            squares = np.square(np.where(flat > 0, flat, 0.0))[down]
            part = np.empty(flat.size)
            part[down] = np.divide(squares, squares.cumsum(), out=np.full(flat.size, -np.inf), where=squares > 0)
            shares |= dict(zip(mine, np.split(part, np.cumsum([scores[n].size for n in mine])[:-1]), strict=True))
        return ranked()({name: shares[name] for name in scores}, density)

    return allocate


def erk(shapes: Mapping[str, tuple[int, ...]]) -> Allocation:
    """Erdős–Rényi-Kernel: density of a layer ∝ Σ dims / Π dims, capped at 1 (Evci et al., RigL, 2020, §3).

    What a capped layer cannot take is shared out again, so that the total stays density · Σ sizes.

    >>> scores = {"narrow": np.ones((4, 4)), "wide": np.ones((4, 12))}
    >>> erk({name: value.shape for name, value in scores.items()})(scores, 0.25)
    {'narrow': 0.3333333333333333, 'wide': 0.2222222222222222}
    """
    return _shared({name: sum(shape) / float(np.prod(shape)) for name, shape in shapes.items()})


def in_proportion(budgets: Mapping[str, float], *, floor: float = 0.0) -> Allocation:
    """Numbers of kept weights ∝ ``budgets``, capped at what a layer has; what a full one cannot take is shared again.

    Before that every layer gets ``floor`` of what it would have if all were alike.

    >>> scores = {"a": np.ones(10), "b": np.ones(10)}
    >>> in_proportion({"a": 3.0, "b": 1.0})(scores, 0.4), in_proportion({"a": 3.0, "b": 1.0}, floor=0.5)(scores, 0.5)
    ({'a': 0.6, 'b': 0.2}, {'a': 0.625, 'b': 0.375})
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor {floor} is outside [0, 1]")

    def allocate(scores: Scores, density: float) -> Densities:
        least = _LEAST * max(budgets.values()) or 1.0  # so that what others cannot take has a place
        weight = {name: max(budgets[name], least) / value.size for name, value in scores.items()}
        return _shared(weight, floor)(scores, density)

    return allocate


def half_as_fast(slow: Collection[str], level: int) -> Allocation:
    """Layers share alike at each level of pruning, but ``slow`` ones lose half the fraction (Frankle & Carbin, 2019).

    With x the kept fraction a level, x^level of a layer and ((1 + x) / 2)^level of a slow one are kept, so many that
    the total is the density asked for. Where the slow ones alone would keep more than that, all
    layers share alike.

    >>> half_as_fast(["head"], level=1)({"body": np.ones(10), "head": np.ones(10)}, 0.7)
    {'body': 0.6, 'head': 0.8}
    """

    def densities(scores: Scores, fraction: float) -> Densities:
        return {name: ((1 + fraction) / 2 if name in slow else fraction) ** level for name in scores}

    def allocate(scores: Scores, density: float) -> Densities:
        total, low, high = density * sum(value.size for value in scores.values()), 0.0, 1.0

        def over(fraction: float) -> bool:
            return sum(kept * scores[name].size for name, kept in densities(scores, fraction).items()) > total

        if over(low):
            return uniform(scores, density)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if over(middle) else (middle, high)
        return {name: round(kept, _DIGITS) for name, kept in densities(scores, high).items()}

    return allocate


def at_least(floor: float, allocate: Allocation) -> Allocation:
    """``allocate``, with every layer's density raised to at least ``floor``; the total grows by what that takes.

    >>> at_least(0.2, uniform)({"w": np.ones(10)}, 0.05)
    {'w': 0.2}
    """
    return lambda scores, density: {name: max(floor, value) for name, value in allocate(scores, density).items()}


_HALVINGS, _DIGITS = 60, 12  # of an interval as wide as 1, until only rounding is left, which is cut off
_LEAST = 1e-9  # of the largest budget
_ROUNDING = 1e-12  # what a share may lack of 1 without meaning it


def _shared(weight: Mapping[str, float], floor: float = 0.0) -> Allocation:
    def allocate(scores: Scores, density: float) -> Densities:
        sizes = {name: scores[name].size for name in scores}
        budget, least = density * sum(sizes.values()), floor * density
        full: set[str] = set()
        while True:
            rest = [name for name in sizes if name not in full]
            share = sum(weight[name] * sizes[name] for name in rest)
            left = budget - sum(sizes[name] for name in full) - sum(least * sizes[name] for name in rest)
            scale = left / share if rest else 0.0
            over = {name for name in rest if least + scale * weight[name] > 1 - _ROUNDING}
            if not over:
                return {name: 1.0 if name in full else least + scale * weight[name] for name in sizes}
            full |= over

    return allocate
