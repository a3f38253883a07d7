"""What dies together in a graph: a channel, a feature, an attention head, a group of a norm.

A unit is what a producer makes with some rows of its weight, followed through every operation to the columns that read
it. Units that meet in a sum, a product, a norm of groups or a shuffle are one. Along each axis of each tensor every
place belongs to a unit, or to none that could be removed, so that what is left is always a smaller tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, get_args

import numpy as np

from fedprune.graph.activations import Binary, Constant, LogSoftmax, PRelu, Reduce, Softmax, Unary
from fedprune.graph.moving import Concat, Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Resize, Slice
from fedprune.graph.operations import (
    AvgPool,
    BatchNorm,
    Conv2d,
    Embedding,
    GlobalMean,
    Graph,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Operation,
    Shape,
    TransposedConv2d,
    consumers,
)
from fedprune.types import Tensor

FIXED = 0
"""The label of what belongs to no unit."""

Labels = tuple[Tensor, ...]
"""Along each axis of a tensor, the unit of each place."""


@dataclass
class Units:
    """The units of a graph's tensors; `of` resolves labels that are one."""

    graph: Graph
    labels: dict[str, Labels] = field(default_factory=dict)
    wild: frozenset[str] = frozenset()
    """Constants that one operation reads: they are cut as that needs them."""
    _parents: list[int] = field(default_factory=lambda: [FIXED])

    def fresh(self, count: int) -> Tensor:
        """So many new units."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, label: int) -> int:
        """The label that stands for all that are one with this."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def of(self, name: str, axis: int) -> Tensor:
        """The unit of each place along an axis of a tensor."""
        return self.resolved(self.labels[name][axis])

    def resolved(self, labels: Tensor) -> Tensor:
        """Labels, those that are one made equal."""
        return np.array([self.root(int(label)) for label in labels], np.int64)

    def join(self, first: Tensor, second: Tensor) -> None:
        """Make units at the same places one; what meets something fixed is fixed."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            self._parents[max(a, b)] = min(a, b)

    def fix(self, labels: Tensor) -> None:
        """Say that these can never be removed."""
        self.join(labels, np.full_like(labels, FIXED))


def units(graph: Graph) -> Units:
    """Return the units of a graph, batch norms folded or not. What it reads and gives is fixed."""
    readers = consumers(graph)
    constants = {op.output for op in graph.operations if isinstance(op, Constant)}
    made = Units(graph, wild=frozenset(name for name in constants if len(readers[name]) == 1))
    for name in (graph.input, *constants):
        made.labels[name] = _fixed(graph.shapes[name])
    for op in graph.operations:
        if not isinstance(op, Constant):
            rule = _RULES.get(type(op), _untold)
            made.labels[op.output] = rule(made, op, graph.shapes[op.output])
    for name in graph.outputs:
        for labels in made.labels[name]:
            made.fix(labels)
    return made


def _fixed(shape: Shape) -> Labels:
    return tuple(np.zeros(size, np.int64) for size in shape)


def _untold(made: Units, op: Operation, shape: Shape) -> Labels:
    """Of an operation whose units cannot be told: all that it reads stays."""
    for name in op.inputs:
        for labels in made.labels[name]:
            made.fix(labels)
    return _fixed(shape)


def _same(made: Units, op: Operation, shape: Shape) -> Labels:
    return made.labels[op.inputs[0]]


def _conv(made: Units, op: Conv2d, shape: Shape) -> Labels:
    channels, out = made.labels[op.inputs[0]][1], len(op.weight.value)
    if op.groups == 1:
        return _map(made.fresh(out), shape)
    per_group = len(channels) // op.groups
    if per_group == 1:  # depthwise: an input's outputs are next to one another
        return _map(np.repeat(channels, out // len(channels)), shape)
    for group in range(1, op.groups):  # every group must stay as wide as the others
        made.join(channels[:per_group], channels[group * per_group : (group + 1) * per_group])
    return _map(np.tile(made.fresh(out // op.groups), op.groups), shape)


def _map(channels: Tensor, shape: Shape) -> Labels:
    return (_fixed(shape)[0], channels, *_fixed(shape)[2:])


def _transposed(made: Units, op: TransposedConv2d, shape: Shape) -> Labels:
    return _map(made.fresh(shape[1]), shape)


def _linear(made: Units, op: Linear, shape: Shape) -> Labels:
    return (*made.labels[op.inputs[0]][:-1], made.fresh(shape[-1]))


def _embedding(made: Units, op: Embedding, shape: Shape) -> Labels:
    return (*_fixed(shape)[:-1], made.fresh(shape[-1]))


def _matmul(made: Units, op: MatMul, shape: Shape) -> Labels:
    a, b = (made.labels[name] for name in op.inputs)
    made.join(a[1], b[1])
    made.join(a[3], b[2])
    return (a[0], a[1], a[2], b[3])


def _group_norm(made: Units, op: GroupNorm, shape: Shape) -> Labels:
    channels = made.labels[op.inputs[0]][1]
    for group in np.split(channels, op.groups):
        made.join(group, np.full_like(group, group[0]))
    return made.labels[op.inputs[0]]


def _over(axes: Callable[[Any], Sequence[int]]) -> Callable[[Units, Any, Shape], Labels]:
    """Of what mixes all places along some axes: they stay."""

    def rule(made: Units, op: Operation, shape: Shape) -> Labels:
        labels = made.labels[op.inputs[0]]
        for axis in axes(op):
            made.fix(labels[axis])
        return tuple(
            labels[axis] if len(labels[axis]) == size else np.zeros(size, np.int64) for axis, size in enumerate(shape)
        )

    return rule


def _pool(made: Units, op: Operation, shape: Shape) -> Labels:
    labels = made.labels[op.inputs[0]]
    for axis in (2, 3):
        made.fix(labels[axis])
    return (labels[0], labels[1], *_fixed(shape)[2:])


def _global(made: Units, op: GlobalMean, shape: Shape) -> Labels:
    labels = made.labels[op.inputs[0]]
    for axis in (2, 3):
        made.fix(labels[axis])
    return (labels[0], labels[1], *_fixed(shape)[2:])


def _binary(made: Units, op: Operation, shape: Shape) -> Labels:
    found = []
    sides = [made.labels[name] for name in op.inputs if name not in made.wild]
    for axis, size in enumerate(shape):
        whole = [labels[axis] for labels in sides if len(labels[axis]) == size]
        for side in sides:
            if len(side[axis]) < size:  # one place that all others need
                made.fix(side[axis])
        for other in whole[1:]:
            made.join(whole[0], other)
        found.append(whole[0] if whole else np.zeros(size, np.int64))
    return tuple(found)


def _concat(made: Units, op: Concat, shape: Shape) -> Labels:
    given = [made.labels[name] for name in op.inputs]
    for labels in given[1:]:
        for axis in range(len(shape)):
            if axis != op.axis:
                made.join(given[0][axis], labels[axis])
    joined = np.concatenate([labels[op.axis] for labels in given])
    return tuple(joined if axis == op.axis else labels for axis, labels in enumerate(given[0]))


def _slice(made: Units, op: Slice, shape: Shape) -> Labels:
    labels = list(made.labels[op.inputs[0]])
    if op.step != 1:
        made.fix(labels[op.axis])
    labels[op.axis] = labels[op.axis][op.start : op.stop : op.step]
    return tuple(labels)


def _pad(made: Units, op: Pad, shape: Shape) -> Labels:
    return tuple(np.pad(labels, sides) for labels, sides in zip(made.labels[op.inputs[0]], op.padding, strict=True))


def _permute(made: Units, op: Permute, shape: Shape) -> Labels:
    return tuple(made.labels[op.inputs[0]][axis] for axis in op.order)


def _shuffle(made: Units, op: PixelShuffle, shape: Shape) -> Labels:
    squares = made.labels[op.inputs[0]][1].reshape(-1, op.factor**2)
    for square in squares:
        made.join(square, np.full_like(square, square[0]))
    return _map(squares[:, 0].copy(), shape)


def _unshuffle(made: Units, op: PixelUnshuffle, shape: Shape) -> Labels:
    return _map(np.repeat(made.labels[op.inputs[0]][1], op.factor**2), shape)


def blocks(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Axes of a reshape's input and of its output that hold the same values, in the smallest such blocks."""
    i = j = 0
    while i < len(before) or j < len(after):
        ours, theirs, sizes = [i] if i < len(before) else [], [j] if j < len(after) else [], [1, 1]
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


def _reshape(made: Units, op: Reshape, shape: Shape) -> Labels:
    before, given = made.graph.shapes[op.inputs[0]], made.labels[op.inputs[0]]
    found = list(_fixed(shape))
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


_RULES: Mapping[type[Operation], Callable[[Units, Any, Shape], Labels]] = {
    Conv2d: _conv,
    TransposedConv2d: _transposed,
    Linear: _linear,
    Embedding: _embedding,
    MatMul: _matmul,
    BatchNorm: _same,
    GroupNorm: _group_norm,
    LayerNorm: _over(lambda op: op.axes),
    Reduce: _over(lambda op: op.axes),
    **dict.fromkeys((Softmax, LogSoftmax), _over(lambda op: (op.axis,))),
    **dict.fromkeys((MaxPool, AvgPool, Resize), _pool),
    GlobalMean: _global,
    PRelu: _same,
    **dict.fromkeys(get_args(Unary), _same),
    **dict.fromkeys(get_args(Binary), _binary),
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Permute: _permute,
    Reshape: _reshape,
    PixelShuffle: _shuffle,
    PixelUnshuffle: _unshuffle,
}
