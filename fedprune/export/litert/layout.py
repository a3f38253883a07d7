"""How a tensor of the graph lies in the file: which of its axes each dimension runs along, and TFLite's padding."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from fedprune.types import Tensor

Shape = tuple[int, ...]
Pair = tuple[int, int]
Sides = tuple[Pair, Pair]


class Dim(NamedTuple):
    """A dimension longer than one of a tensor in the file."""

    size: int
    axis: int
    """The axis of the graph's tensor that it runs along."""
    stride: int
    """By how many places along that axis one step goes: more than one where several dimensions share an axis."""


Dims = tuple[Dim, ...]
"""The dimensions of a tensor, the outermost first; those of one value are left out."""


def plain(shape: Shape, axes: Sequence[int]) -> Dims:
    """Return the dimensions of a tensor whose axes lie whole in that order."""
    return tuple(Dim(shape[axis], axis, 1) for axis in axes if shape[axis] > 1)


def last(rank: int) -> tuple[int, ...]:
    """Return the order of axes of a tensor whose channels lie last: (0, 2, 3, 1) of a map."""
    return (0, *range(2, rank), 1) if rank == 4 else tuple(range(rank))


def shape(first: Shape) -> Shape:
    """Return the channels-last shape of an end of the model; a vector is a map of one position, ``(1, 1, 1, F)``."""
    return (first[0], *first[2:], first[1]) if len(first) == 4 else (1, 1, *first)


def sizes(dims: Dims) -> Shape:
    """Return their sizes."""
    return tuple(dim.size for dim in dims)


def joined(dims: Dims) -> Dims:
    """Return the same layout in the fewest dimensions: neighbours that run on along one axis are one."""
    found = list[Dim]()
    for dim in dims:
        before = found[-1] if found else None
        if before is not None and before.axis == dim.axis and before.stride == dim.stride * dim.size:
            found[-1] = Dim(before.size * dim.size, dim.axis, dim.stride)
        else:
            found.append(dim)
    return tuple(found)


def reshaped(dims: Dims, before: Shape, after: Shape) -> Dims | None:
    """Return how a tensor lies that is seen in another shape; None where a dimension would have to be moved."""
    steps = {axis: prod(after[axis + 1 :]) for axis in range(len(after)) if after[axis] > 1}
    found = list[Dim]()
    for dim in dims:
        step = dim.stride * prod(before[dim.axis + 1 :])  # in the flattened tensor
        size, parts = dim.size, list[Dim]()
        for axis in sorted(steps, reverse=True):  # the innermost first
            inner, outer = steps[axis], steps[axis] * after[axis]
            if size == 1 or step >= outer:
                continue
            if step % inner:
                return None
            taken = min(size, outer // step)
            if outer % step or size % taken:
                return None
            parts.insert(0, Dim(taken, axis, step // inner))
            size, step = size // taken, step * taken
        found += [part for part in parts if part.size > 1]
    return tuple(found)


def permuted(dims: Dims, order: Sequence[int]) -> Dims:
    """Return how a tensor lies whose axis ``i`` was axis ``order[i]``."""
    places = {axis: place for place, axis in enumerate(order)}
    return tuple(dim._replace(axis=places[dim.axis]) for dim in dims)


def positions(dims: Dims) -> Tensor:
    """Return, of a vector, the place along its axis of each value in the order in which the file holds them."""
    found = np.zeros((1,), np.int64)
    for dim in dims:
        found = (found[:, None] + dim.stride * np.arange(dim.size)).ravel()
    return found


def spread(values: Tensor, whole: Shape, dims: Dims) -> Tensor:
    """Return a constant that broadcasts to ``whole`` as it lies in ``dims``; of size one where it is the same."""
    full = values.reshape((1,) * (len(whole) - values.ndim) + values.shape)
    kept = [dim.size if full.shape[dim.axis] > 1 else 1 for dim in dims]
    index = []
    for axis in range(len(whole)):
        places = np.zeros((1,) * len(dims), np.int64)
        for at, dim in enumerate(dims):
            if dim.axis == axis and full.shape[axis] > 1:
                steps = dim.stride * np.arange(dim.size)
                places = places + steps.reshape([-1 if other == at else 1 for other in range(len(dims))])
        index.append(places)
    result: Tensor = np.broadcast_to(full[tuple(index)], kept)
    return result


def held(shape: Shape, dims: Dims) -> list[Dims] | None:
    """Return the dimensions in each axis of the file's tensor longer than one; None where one holds only a part."""
    rest, found = list(dims), list[Dims]()
    for size in shape:
        if size == 1:
            continue
        part = list[Dim]()
        while prod(dim.size for dim in part) < size and rest:
            part.append(rest.pop(0))
        if prod(dim.size for dim in part) != size:
            return None
        found.append(tuple(part))
    return found if not rest else None


def reach(size: Pair, result: Pair, kernel: Pair, stride: Pair, padding: Sides) -> Sides:
    """Return the padding that windows really touch: torch may pad cells behind the last window."""
    ends = []
    for length, out, k, s, (before, _) in zip(size, result, kernel, stride, padding, strict=True):
        ends.append((before, max((out - 1) * s + k - length - before, 0)))
    return (ends[0], ends[1])


def same(size: Pair, kernel: Pair, stride: Pair) -> Sides:
    """Return the padding of TFLite's SAME: ``ceil(size / stride)`` windows, the odd cell after the map."""
    ends = []
    for length, k, s in zip(size, kernel, stride, strict=True):
        total = max((-(-length // s) - 1) * s + k - length, 0)
        ends.append((total // 2, total - total // 2))
    return (ends[0], ends[1])
