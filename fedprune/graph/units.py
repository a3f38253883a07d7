"""What dies together in a graph: a channel, a feature, an attention head, a group of a norm.

A unit is what a producer makes with some rows of its weight, followed through every operation to the columns that read
it. Units that meet in a sum, a product, a norm of groups or a shuffle are one. Along each axis of each tensor every
place belongs to a unit, or to none that could be removed, so that what is left is always a smaller tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from fedprune.graph.activations import Binary, Constant, LogSoftmax, PRelu, Reduce, Softmax, Unary
from fedprune.graph.labels import Labels, Units, fixed
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
from fedprune.graph.regrouping import regrouped
from fedprune.types import Tensor


def units(graph: Graph) -> Units:
    """Return the units of a graph, batch norms folded or not. What it reads and gives is fixed."""
    readers = consumers(graph)
    constants = {op.output for op in graph.operations if isinstance(op, Constant)}
    made = Units(graph, wild=frozenset(name for name in constants if len(readers[name]) == 1))
    for name in (graph.input, *constants):
        made.labels[name] = fixed(graph.shapes[name])
    for op in graph.operations:
        if not isinstance(op, Constant):
            rule = _RULES.get(type(op), _untold)
            made.labels[op.output] = rule(made, op, graph.shapes[op.output])
    for name in graph.outputs:
        for labels in made.labels[name]:
            made.fix(labels)
    return made


def _untold(made: Units, op: Operation, shape: Shape) -> Labels:
    """Of an operation whose units cannot be told: all that it reads stays."""
    for name in op.inputs:
        for labels in made.labels[name]:
            made.fix(labels)
    return fixed(shape)


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
    return (fixed(shape)[0], channels, *fixed(shape)[2:])


def _transposed(made: Units, op: TransposedConv2d, shape: Shape) -> Labels:
    return _map(made.fresh(shape[1]), shape)


def _linear(made: Units, op: Linear, shape: Shape) -> Labels:
    return (*made.labels[op.inputs[0]][:-1], made.fresh(shape[-1]))


def _embedding(made: Units, op: Embedding, shape: Shape) -> Labels:
    return (*fixed(shape)[:-1], made.fresh(shape[-1]))


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
    return (labels[0], labels[1], *fixed(shape)[2:])


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
    **dict.fromkeys((MaxPool, AvgPool, GlobalMean, Resize), _pool),
    PRelu: _same,
    **dict.fromkeys(get_args(Unary), _same),
    **dict.fromkeys(get_args(Binary), _binary),
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Permute: _permute,
    Reshape: regrouped,
    PixelShuffle: _shuffle,
    PixelUnshuffle: _unshuffle,
}
