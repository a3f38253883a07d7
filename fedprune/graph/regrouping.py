"""What a reshape makes of units: heads and groups that were places along one axis, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from fedprune.graph.activations import Binary, Unary
from fedprune.graph.labels import Labels, Units, fixed
from fedprune.graph.moving import Permute, Reshape, Slice
from fedprune.graph.operations import (
    Graph,
    MatMul,
    Operation,
    Shape,
    consumers,
)
from fedprune.types import Tensor


def blocks(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Axes of a reshape's input and of its output that hold the same values, in the smallest such blocks."""
    i = j = 0
    while i < len(before) or j < len(after):
        ours, theirs = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(ours), j + len(theirs)
        sizes = [prod(before[a] for a in ours), prod(after[a] for a in theirs)]
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1]:
                ours.append(i)
                sizes[0] *= before[i]
                i += 1
            else:
                theirs.append(j)
                sizes[1] *= after[j]
                j += 1
        yield ours, theirs


def regrouped(made: Units, op: Reshape, shape: Shape) -> Labels:
    """Return the labels of a reshape's output; units that lie whole along no one axis of it become one."""
    before, given = made.graph.shapes[op.inputs[0]], made.labels[op.inputs[0]]
    found = list(fixed(shape))
    for ours, theirs in blocks(before, shape):
        told = [axis for axis in ours if made.resolved(given[axis]).any()]
        if len(told) > 1:
            for axis in told:
                made.fix(given[axis])
        if len(told) != 1:
            continue
        sizes = [before[axis] for axis in ours]
        flat = np.broadcast_to(_column(given[told[0]], ours.index(told[0]), len(ours)), sizes).reshape(-1)
        whole = flat.reshape([shape[axis] for axis in theirs])
        long = [place for place, axis in enumerate(theirs) if shape[axis] > 1]
        # neighbours first: a unit lies whole along one axis, by which all others are cut alike
        chosen = _finest(made, op.output, whole, theirs, long)
        lines = np.moveaxis(whole, chosen, 0).reshape(whole.shape[chosen], -1)
        for line in lines:
            made.join(line, np.full_like(line, line[0]))
        found[theirs[chosen]] = lines[:, 0].copy()
    return tuple(found)


def _column(labels: Tensor, place: int, rank: int) -> Tensor:
    return labels.reshape([-1 if axis == place else 1 for axis in range(rank)])


def _finest(made: Units, name: str, whole: Tensor, axes: Sequence[int], long: Sequence[int]) -> int:
    """Along which axis of the output units are told: that of heads, where a product follows, else the longest."""
    if not long:
        return 0
    apart = {place: _distinct(np.moveaxis(whole, place, 0)) for place in long}
    heads = _batch_axes(made.graph, name)
    for place in long:
        if axes[place] in heads and apart[place] == whole.shape[place]:
            return place
    return max(long, key=lambda place: (apart[place], -place))


def _distinct(lines: Tensor) -> int:
    return len({tuple(sorted(set(line.ravel().tolist()))) for line in lines})


def _batch_axes(graph: Graph, name: str) -> set[int]:
    """The axes of a tensor that are the batch of a product of matrices further on, or of which it is made."""
    readers = consumers(graph)
    found = set[int]()
    for axis in range(len(graph.shapes[name])):
        held, seen = [(name, axis)], set[tuple[str, int]]()
        while held and axis not in found:
            place = held.pop()
            if place in seen:
                continue
            seen.add(place)
            for op in readers[place[0]]:
                if isinstance(op, MatMul):
                    if place[1] == 1 and graph.shapes[place[0]][1] > 1:
                        found.add(axis)
                elif (after := _followed(graph, op, *place)) is not None:
                    held.append((op.output, after))
    return found


def _followed(graph: Graph, op: Operation, name: str, axis: int) -> int | None:
    if isinstance(op, Permute):
        return op.order.index(axis)
    if isinstance(op, Slice | Unary | Binary):
        return axis
    if isinstance(op, Reshape):
        for ours, theirs in blocks(graph.shapes[name], graph.shapes[op.output]):
            # alone, or in one with others, such as windows
            after = [a for a in theirs if graph.shapes[op.output][a] > 1]
            if axis in ours and graph.shapes[name][axis] > 1 and len(after) == 1:
                return after[0]
    return None
