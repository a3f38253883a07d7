"""Norms of groups and of layers, written in means, differences and products: what a runtime without them computes."""

from dataclasses import dataclass, field

import numpy as np

from fedprune.graph.activations import Add, Constant, Multiply, Narrow, Reduce, Rsqrt, Subtract, Widen
from fedprune.graph.moving import Reshape
from fedprune.graph.operations import Graph, GroupNorm, LayerNorm, Operation, Parameter, Shape
from fedprune.types import FloatTensor


def spelled(graph: Graph) -> Graph:
    """Return the graph with ``(x - mean) / sqrt(variance + epsilon)`` in 16 bits in place of each such norm.

    In 8 bits the variance of a quiet position is nothing beside that of a loud one, so that its reciprocal is noise:
    the result then has a signal to noise of -6 to 33 dB where rounding its ends alone leaves 26 to 36; in 16 it has
    that, but for 0.2 dB.
    """
    made = _Making({**graph.shapes})
    for op in graph.operations:
        if isinstance(op, GroupNorm):
            _group_norm(made, op)
        elif isinstance(op, LayerNorm):
            _layer_norm(made, op)
        else:
            made.operations.append(op)
    return Graph(graph.input, graph.outputs, tuple(made.operations), made.shapes, graph.modules)


@dataclass
class _Making:
    shapes: dict[str, Shape]
    operations: list[Operation] = field(default_factory=list)

    def add(self, op: Operation, shape: Shape) -> str:
        self.operations.append(op)
        self.shapes[op.output] = shape
        return op.output

    def constant(self, name: str, parameter: Parameter, value: FloatTensor) -> str:
        return self.add(Constant((), name, Parameter(parameter.name, value)), value.shape)


def _group_norm(made: _Making, op: GroupNorm) -> None:
    name, shape = op.output, made.shapes[op.output]
    groups = (1, op.groups, shape[1] // op.groups, *shape[2:])
    wide = made.add(Widen(op.inputs, f"{name}.wide"), shape)
    grouped = made.add(Reshape((wide,), f"{name}.grouped"), groups)
    normed = _normed(made, name, grouped, groups, tuple(range(2, len(groups))), op.epsilon)
    whole = made.add(Reshape((normed,), f"{name}.whole"), shape)
    _scaled(made, op, whole, (1, -1, *[1] * (len(shape) - 2)))


def _layer_norm(made: _Making, op: LayerNorm) -> None:
    shape = made.shapes[op.output]
    wide = made.add(Widen(op.inputs, f"{op.output}.wide"), shape)
    normed = _normed(made, op.output, wide, shape, op.axes, op.epsilon)
    _scaled(made, op, normed, (*[1] * (len(shape) - len(op.axes)), *(shape[axis] for axis in op.axes)))


def _normed(made: _Making, name: str, source: str, shape: Shape, axes: tuple[int, ...], epsilon: float) -> str:
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    mean = made.add(Reduce((source,), f"{name}.mean", "mean", axes), kept)
    apart = made.add(Subtract((source, mean), f"{name}.apart"), shape)
    squares = made.add(Multiply((apart, apart), f"{name}.squares"), shape)
    variance = made.add(Reduce((squares,), f"{name}.variance", "mean", axes), kept)
    inverse = made.add(Rsqrt((variance,), f"{name}.inverse", epsilon), kept)
    return made.add(Multiply((apart, inverse), f"{name}.normed"), shape)


def _scaled(made: _Making, op: GroupNorm | LayerNorm, source: str, along: tuple[int, ...]) -> None:
    name, shape = op.output, made.shapes[op.output]
    if op.weight is not None and not np.array_equal(op.weight.value, np.ones_like(op.weight.value)):
        scale = made.constant(f"{name}.weight", op.weight, op.weight.value.reshape(along))
        source = made.add(Multiply((source, scale), f"{name}.scaled"), shape)
    if op.bias is not None and op.bias.value.any():
        shift = made.constant(f"{name}.bias", op.bias, op.bias.value.reshape(along))
        source = made.add(Add((source, shift), f"{name}.shifted"), shape)
    made.add(Narrow((source,), name), shape)
