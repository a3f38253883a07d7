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
    heads = _batch_axis(made.graph, name)
    for place in long:
        if axes[place] == heads and apart[place] == whole.shape[place]:
            return place
    return max(long, key=lambda place: (apart[place], -place))


def _distinct(lines: Tensor) -> int:
    return len({tuple(sorted(set(line.ravel().tolist()))) for line in lines})


def _batch_axis(graph: Graph, name: str) -> int | None:
    """The axis of a tensor that is the batch of a product of matrices further on."""
    readers = consumers(graph)
    held: list[tuple[str, int]] = [(name, axis) for axis in range(len(graph.shapes[name]))]
    seen = set(held)
    origin = {place: place[1] for place in held}
    while held:
        place = held.pop(0)
        tensor, axis = place
        for op in readers[tensor]:
            if isinstance(op, MatMul):
                if axis == 1 and graph.shapes[tensor][1] > 1:
                    return origin[place]
                continue
            after = _followed(graph, op, tensor, axis)
            if after is not None and (op.output, after) not in seen:
                seen.add((op.output, after))
                origin[op.output, after] = origin[place]
                held.append((op.output, after))
    return None


def _followed(graph: Graph, op: Operation, name: str, axis: int) -> int | None:
    if isinstance(op, Permute):
        return op.order.index(axis)
    if isinstance(op, Slice | Unary | Binary):
        return axis
    if isinstance(op, Reshape):
        for ours, theirs in blocks(graph.shapes[name], graph.shapes[op.output]):
            long = [a for a in ours if graph.shapes[name][a] > 1]
            if long == [axis] and len(after := [a for a in theirs if graph.shapes[op.output][a] > 1]) == 1:
                return after[0]
    return None
