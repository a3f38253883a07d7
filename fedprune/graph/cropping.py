"""Widths of coupled channels from densities of layers: a dense net that spends its weights where a sparse one does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from math import exp, inf, log, prod, sqrt

from fedprune.graph.coupling import Group
from fedprune.pruning.topk import kept_count
from fedprune.types import Densities

Counts = Mapping[str, float]
"""Group -> how many of its channels are kept."""

_HALVINGS = 60
_STEPS = 60
_FAR = (1, 2, 3)


def at_density(shapes: Mapping[str, tuple[int, ...]], layers: Collection[str], density: float) -> int:
    """How many weights of two dimensions or more a net has whose ``layers`` together keep this density of theirs."""
    sizes = {name: prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    pruned = sum(sizes[name] for name in layers)
    return sum(sizes.values()) - pruned + kept_count(density, pruned)


def matrices(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], counts: Counts) -> float:
    """How many weights of two dimensions or more a net has with so many channels."""
    left: dict[str, list[float]] = {name: list(shape) for name, shape in shapes.items() if len(shape) > 1}
    for group in groups:
        for member in (*group.members, *group.beside):
            if member.name in left:
                left[member.name][member.dim] -= (group.size - counts[group.name]) * member.positions.shape[1]
    return sum(map(prod, left.values()))


def cropped(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], densities: Densities, total: int
) -> dict[str, int]:
    """Group -> channels of the net of at most ``total`` weights whose layers are to each other as these densities are.

    A layer of density d keeps √d of its outputs and of its inputs, or d of the one that can be cut alone. A group's
    share is the geometric mean over its layers, by their weights; layers without a density say nothing. All shares are
    scaled alike until the net fits; then single channels come, go or change groups while it comes nearer to ``total``.
    """
    sides: dict[str, int] = {}
    for group in groups:
        for name in {member.name for member in group.members}:
            sides[name] = sides.get(name, 0) + 1
    shares = {}
    for group in groups:
        told = [m.name for m in group.members if m.name in densities]
        sizes = [prod(shapes[name]) for name in told]
        logs = [log(max(densities[n], 1 / size)) / sides[n] for n, size in zip(told, sizes, strict=True)]
        mean = sum(each * size for each, size in zip(logs, sizes, strict=True)) / max(1, sum(sizes))
        shares[group.name] = group.size * exp(mean)
    return _filled(groups, shapes, _scaled(groups, shapes, shares, total, int), total)


def configured(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], worth: Mapping[str, float], total: int
) -> dict[str, int]:
    """Group -> channels of the net of at most ``total`` weights in which Σ worth · ln channels is the most.

    Where one channel of each group takes more, it is those. In logarithms of widths that is linear, and the weights a
    sum of exponentials, so there is one optimum: where worth is to ∂weights / ∂ln channels as everywhere else, but for
    groups that are whole or at one channel. It is come to by steps towards that, of fractions of channels; then single
    channels are added, and others taken that are worth the least of what they free, as long as it pays. ValueError
    where a worth is not a number above 0.
    """
    if wrong := [f"{name} is worth {each}" for name, each in worth.items() if not 0 < each < inf]:
        raise ValueError(f"{wrong[0]}, and not more than 0")
    shares = {group.name: float(group.size) for group in groups}
    for _ in range(_STEPS):
        counts = _scaled(groups, shapes, shares, total)
        size = matrices(groups, shapes, counts)
        takes = {name: matrices(groups, shapes, {**counts, name: 1.001 * n}) - size for name, n in counts.items()}
        shares = {name: n * sqrt(worth[name] / max(1000 * takes[name], 1e-9)) for name, n in counts.items()}
    return _climbed(groups, shapes, _scaled(groups, shapes, shares, total), worth, total)


def _climbed(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], near: Counts, worth: Mapping[str, float], total: int
) -> dict[str, int]:
    """Whole counts after the best of additions of a channel or a few, paid for by others, while one pays."""
    most = {group.name: group.size for group in groups}
    counts = {name: int(count) for name, count in near.items()}

    def value(of: Mapping[str, int]) -> float:
        return sum(worth[name] * log(count) for name, count in of.items())

    def paid(changed: dict[str, int], for_: str) -> dict[str, int]:
        while (size := matrices(groups, shapes, changed)) > total:
            less = [{**changed, n: count - 1} for n, count in changed.items() if n != for_ and count > 1]
            if not less:
                return counts
            now, over = value(changed), size - total
            freed = [max(1e-9, min(over, size - matrices(groups, shapes, each))) for each in less]
            changed = min(zip(less, freed, strict=True), key=lambda each: (now - value(each[0])) / each[1])[0]
        return changed

    while True:
        more = [(n, count + up) for n, count in counts.items() for up in _FAR if count + up <= most[n]]
        ways = [paid({**counts, n: count}, n) for n, count in more]
        best = max(ways, key=value, default=counts)
        if value(best) <= value(counts):
            return counts
        counts = best


def _scaled(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], shares: Mapping[str, float], total: int,
    rounded: Callable[[float], float] = float,
) -> dict[str, float]:  # fmt: skip
    """Counts that are to each other as shares, from one channel to all, of at most ``total`` weights."""
    most = {group.name: group.size for group in groups}

    def by(factor: float) -> dict[str, float]:
        return {name: min(most[name], max(1, rounded(factor * share))) for name, share in shares.items()}

    low, high = 0.0, max(most[name] / share for name, share in shares.items())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if matrices(groups, shapes, by(middle)) <= total else (low, middle)
    return by(low)


def _filled(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], near: Counts, total: int) -> dict[str, int]:
    """Counts after the best of changes by a channel of one or of two groups, as long as one comes nearer."""
    most = {group.name: group.size for group in groups}
    counts = {name: int(count) for name, count in near.items()}
    while True:
        size, ways = matrices(groups, shapes, counts), []
        for more, less in itertools.product(counts, ("", *counts)):
            changed = {**counts, more: counts[more] + 1}
            if less:
                changed[less] -= 1
            if less != more and changed[more] <= most[more] and changed.get(less, 1) >= 1:
                ways.append((matrices(groups, shapes, changed), changed))
        best = max((way for way in ways if size < way[0] <= total), key=lambda way: way[0], default=None)
        if best is None:
            return counts
        counts = best[1]
