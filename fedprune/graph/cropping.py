"""Widths of coupled channels from densities of layers: a dense net that spends its weights where a sparse one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, prod

from fedprune.graph.coupling import Group
from fedprune.types import Densities

Counts = Mapping[str, int]
"""Group -> how many of its channels are kept."""

_HALVINGS = 60


def matrices(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], counts: Counts) -> int:
    """How many weights of two dimensions or more a net has with so many channels."""
    left = {name: list(shape) for name, shape in shapes.items() if len(shape) > 1}
    for group in groups:
        for member in group.members:
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
    most = {group.name: group.size for group in groups}

    def scaled(factor: float) -> dict[str, int]:
        return {name: min(most[name], max(1, int(factor * share))) for name, share in shares.items()}

    low, high = 0.0, max(most[name] / share for name, share in shares.items())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if matrices(groups, shapes, scaled(middle)) <= total else (low, middle)
    return _filled(groups, shapes, scaled(low), most, total)


def _filled(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], counts: dict[str, int], most: Counts, total: int
) -> dict[str, int]:
    """Counts after the best of changes by a channel of one or of two groups, as long as one comes nearer."""
    while True:
        size, ways = matrices(groups, shapes, counts), []
        for more in counts:
            for less in ("", *counts):
                changed = {**counts, more: counts[more] + 1}
                if less:
                    changed[less] -= 1
                if less != more and changed[more] <= most[more] and changed.get(less, 1) >= 1:
                    ways.append((matrices(groups, shapes, changed), changed))
        best = max((way for way in ways if size < way[0] <= total), key=lambda way: way[0], default=None)
        if best is None:
            return counts
        counts = best[1]
