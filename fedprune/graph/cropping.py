"""Widths of coupled channels from densities of layers: a dense net that spends its weights where a sparse one does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from math import exp, log, prod, sqrt

from fedprune.graph.coupling import Group
from fedprune.pruning.topk import kept_count
from fedprune.types import Densities

Counts = Mapping[str, float]
"""Group -> how many of its channels are kept."""

_HALVINGS = 60
_STEPS = 60


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
    scaled = _scaled(groups, shapes, shares, total, int)
    return _filled(groups, shapes, scaled, total, lambda counts: matrices(groups, shapes, counts))


def configured(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], worth: Mapping[str, float], total: int
) -> dict[str, int]:
    """Group -> channels of the net of at most ``total`` weights in which Σ worth · ln channels is the most.

    In logarithms of widths that is linear, and the weights a sum of exponentials, so there is one optimum: where worth
    is to ∂weights / ∂ln channels as everywhere else, but for groups that are whole or at one channel. It is come to by
    steps towards that, of fractions of channels; then single channels come, go or change groups while it pays.
    """
    shares = {group.name: float(group.size) for group in groups}
    for _ in range(_STEPS):
        counts = _scaled(groups, shapes, shares, total)
        size = matrices(groups, shapes, counts)
        takes = {name: matrices(groups, shapes, {**counts, name: 1.001 * n}) - size for name, n in counts.items()}
        shares = {name: n * sqrt(worth[name] / (1000 * takes[name])) for name, n in counts.items()}
    scaled = _scaled(groups, shapes, shares, total)
    return _filled(groups, shapes, scaled, total, lambda counts: sum(worth[n] * log(counts[n]) for n in counts), 3)


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


def _filled(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], near: Counts, total: int,
    worth: Callable[[dict[str, int]], float], far: int = 1,
) -> dict[str, int]:  # fmt: skip
    """Counts after the best of changes by up to ``far`` channels of one or of two groups, while one is worth more."""
    most = {group.name: group.size for group in groups}
    counts = {name: int(count) for name, count in near.items()}
    steps = range(1, far + 1)
    while True:
        ways = []
        for more, less, up, down in itertools.product(counts, ("", *counts), steps, steps):
            changed = {**counts, more: counts[more] + up}
            if less:
                changed[less] -= down
            possible = less != more and changed[more] <= most[more] and changed.get(less, 1) >= 1
            if possible and matrices(groups, shapes, changed) <= total:
                ways.append((worth(changed), changed))
        best = max(ways, key=lambda way: way[0], default=None)
        if best is None or best[0] <= worth(counts):
            return counts
        counts = best[1]
