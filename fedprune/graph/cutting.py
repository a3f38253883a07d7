"""A graph without some of its units: every weight, constant and shape without their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from fedprune.graph.activations import Binary, Constant, PRelu
from fedprune.graph.labels import Units
from fedprune.graph.moving import Slice
from fedprune.graph.operations import (
    BatchNorm,
    Conv2d,
    Embedding,
    Graph,
    GroupNorm,
    Linear,
    Operation,
    Parameter,
    TransposedConv2d,
)
from fedprune.types import Tensor


def is_depthwise(graph: Graph, op: Conv2d) -> bool:
    """Return whether each filter of a convolution reads one channel alone."""
    return op.groups > 1 and op.groups == graph.shapes[op.inputs[0]][1]


def cut(graph: Graph, told: Units, removed: set[int]) -> Graph:
    """Return the graph without some units: every weight and shape without their places."""
    gone = list(removed)

    def kept(name: str, axis: int) -> Tensor:
        found: Tensor = ~np.isin(told.of(name, axis), gone)
        return found

    shapes = {
        name: tuple(int(kept(name, axis).sum()) for axis in range(len(shape))) for name, shape in graph.shapes.items()
    }
    operations = []
    for op in graph.operations:
        if isinstance(op, Constant) and op.output in told.wild:
            (reader,) = (other for other in graph.operations if op.output in other.inputs)
            op, shapes[op.output] = _constant(op, reader, graph, kept)
        operations.append(_CUTS[type(op)](op, graph, kept) if type(op) in _CUTS else op)
    return Graph(graph.input, graph.outputs, tuple(operations), shapes, graph.modules)


Kept = Callable[[str, int], Tensor]


def _constant(op: Constant, reader: Operation, graph: Graph, kept: Kept) -> tuple[Constant, tuple[int, ...]]:
    value, whole = op.value.value, graph.shapes[reader.output]
    if isinstance(reader, get_args(Binary)):
        for axis in range(value.ndim):
            if value.shape[axis] == whole[axis] > 1:
                value = value.compress(kept(reader.output, axis), axis)
    return replace(op, value=Parameter(op.value.name, value)), value.shape


def _vector(parameter: Parameter | None, rows: Tensor) -> Parameter | None:
    if parameter is None or len(parameter.value) != len(rows):
        return parameter
    return Parameter(parameter.name, parameter.value[rows])


def _cut_conv(op: Conv2d, graph: Graph, kept: Kept) -> Operation:
    rows, columns = kept(op.output, 1), kept(op.inputs[0], 1)
    if op.groups == 1:
        weight, groups = op.weight.value[rows][:, columns], 1
    elif is_depthwise(graph, op):
        weight, groups = op.weight.value[rows], int(columns.sum())
    else:
        weight, groups = op.weight.value[rows][:, columns[: op.weight.value.shape[1]]], op.groups
    return replace(op, weight=Parameter(op.weight.name, weight), bias=_vector(op.bias, rows), groups=groups)


def _cut_transposed(op: TransposedConv2d, graph: Graph, kept: Kept) -> Operation:
    rows, columns = kept(op.output, 1), kept(op.inputs[0], 1)
    weight = op.weight.value[columns][:, rows]
    return replace(op, weight=Parameter(op.weight.name, weight), bias=_vector(op.bias, rows))


def _cut_linear(op: Linear, graph: Graph, kept: Kept) -> Operation:
    axis = len(graph.shapes[op.output]) - 1
    rows, columns = kept(op.output, axis), kept(op.inputs[0], axis)
    weight = Parameter(op.weight.name, op.weight.value[rows][:, columns])
    return replace(op, weight=weight, bias=_vector(op.bias, rows))


def _cut_embedding(op: Embedding, graph: Graph, kept: Kept) -> Operation:
    columns = kept(op.output, len(graph.shapes[op.output]) - 1)
    return replace(op, weight=Parameter(op.weight.name, op.weight.value[:, columns]))


def _cut_group_norm(op: GroupNorm, graph: Graph, kept: Kept) -> Operation:
    rows = kept(op.output, 1)
    groups = int(rows.reshape(op.groups, -1)[:, 0].sum())
    return replace(op, groups=groups, weight=_vector(op.weight, rows), bias=_vector(op.bias, rows))


def _cut_channels(op: BatchNorm | PRelu, graph: Graph, kept: Kept) -> Operation:
    rows = kept(op.output, 1)
    given: dict[str, Any] = {
        key: _vector(value, rows) for key, value in vars(op).items() if isinstance(value, Parameter)
    }
    return replace(op, **given)


def _cut_slice(op: Slice, graph: Graph, kept: Kept) -> Operation:
    there = kept(op.inputs[0], op.axis)
    start, stop = int(there[: op.start].sum()), int(there[: op.stop].sum())
    return replace(op, start=start, stop=stop) if op.step == 1 else op


_CUTS: Mapping[type[Operation], Callable[[Any, Graph, Kept], Operation]] = {
    Conv2d: _cut_conv,
    TransposedConv2d: _cut_transposed,
    Linear: _cut_linear,
    Embedding: _cut_embedding,
    GroupNorm: _cut_group_norm,
    BatchNorm: _cut_channels,
    PRelu: _cut_channels,
    Slice: _cut_slice,
}
