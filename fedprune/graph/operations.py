"""The typed operations of a graph, and the graph itself: plain data, read by cost, surgery, export and training.

Tensors are channels first with a batch of one: ``(1, C, H, W)`` maps and ``(1, F)`` vectors. What has three axes in the
model, ``(1, C, L)`` or ``(1, T, F)``, is held as ``(1, C, 1, L)``, so that a one-dimensional convolution is a
two-dimensional one of height 1 and no reader needs both. `activations` has what acts on values, `moving` what moves
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from fedprune.types import FloatTensor

Shape = tuple[int, ...]
Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
"""Cells added ((before, after) rows, (before, after) columns)."""


class Bounds(NamedTuple):
    """The interval an activation clips its input to: ``min(max(x, low), high)``."""

    low: float
    high: float


FREE = Bounds(-inf, inf)
RELU = Bounds(0.0, inf)
RELU6 = Bounds(0.0, 6.0)


@dataclass(frozen=True, eq=False)
class Parameter:
    """A constant of the model: its name in ``state_dict`` and its value, float32."""

    name: str
    value: FloatTensor


@dataclass(frozen=True, eq=False)
class Operation:
    """What every operation has: the tensors it reads and the one it makes."""

    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, eq=False)
class Conv2d(Operation):
    """Cross-correlation; depthwise when ``groups`` is the number of input channels.

    The name of ``weight`` is that of the model's parameter, whose shape may have one spatial dimension less.
    """

    weight: Parameter  # (out, in / groups, rows, columns)
    bias: Parameter | None
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class TransposedConv2d(Operation):
    """The transpose of a cross-correlation: each value adds its window to the result, ``stride`` apart."""

    weight: Parameter  # (in, out, rows, columns)
    bias: Parameter | None
    stride: Pair
    padding: Sides
    """Cut off the result: what is asked for before, and after less the model's ``output_padding``."""
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """``x W^T + b`` over the last axis."""

    weight: Parameter  # (out, in)
    bias: Parameter | None
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class MatMul(Operation):
    """``a b`` over the last two axes of four, ``(1, heads, rows, inner)`` and ``(1, heads, inner, columns)``."""


@dataclass(frozen=True, eq=False)
class Embedding(Operation):
    """The row of ``weight`` that each integer of the model's input names: ``(1, T)`` to ``(1, T, 1, F)``."""

    weight: Parameter  # (rows, F)


@dataclass(frozen=True, eq=False)
class BatchNorm(Operation):
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` a channel, with the running statistics."""

    weight: Parameter | None
    bias: Parameter | None
    mean: Parameter
    variance: Parameter
    epsilon: float
    momentum: float = 0.1
    """By which training moves the running statistics to a batch's; 0: they are means over all batches."""


@dataclass(frozen=True, eq=False)
class GroupNorm(Operation):
    """``(x - mean) / sqrt(variance + epsilon)`` over each of ``groups`` groups of channels, then scaled by channel.

    An instance norm has as many groups as channels.
    """

    groups: int
    weight: Parameter | None  # (channels,)
    bias: Parameter | None
    epsilon: float


@dataclass(frozen=True, eq=False)
class LayerNorm(Operation):
    """``(x - mean) / sqrt(variance + epsilon)`` over ``axes``, the last ones, then scaled value by value."""

    axes: tuple[int, ...]
    weight: Parameter | None  # of the sizes of axes
    bias: Parameter | None
    epsilon: float


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """The largest of each window; cells outside the map never win."""

    kernel: Pair
    stride: Pair
    padding: Sides
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class AvgPool(Operation):
    """The mean of each window, without padding (tracing puts a `Pad` before a padded one)."""

    kernel: Pair
    stride: Pair
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class GlobalMean(Operation):
    """The mean over all positions of a map: to ``(1, C, 1, 1)`` or ``(1, C)``."""


@dataclass(frozen=True, eq=False)
class Dropout(Operation):
    """In training ``x / (1 - chance)``, or with that chance 0, each value by itself or all of a channel; at rest ``x``.

    Only a graph that was traced to be trained holds it.
    """

    chance: float
    channels: bool


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as operations in an order in which they can run."""

    input: str
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    shapes: Mapping[str, Shape]
    """Shape of every tensor, with a batch of one."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Tensor -> dotted name of the innermost module of the model that made it, as traced; rewrites drop it."""


class UnsupportedOperation(NotImplementedError):
    """A model holds something the graph, or one of its readers, has no word for."""


def producers(graph: Graph) -> dict[str, Operation]:
    """Return tensor -> the operation that makes it (the graph's input has none)."""
    return {op.output: op for op in graph.operations}


def consumers(graph: Graph) -> dict[str, tuple[Operation, ...]]:
    """Return tensor -> the operations that read it, in order; outputs of the graph that none reads have ``()``."""
    readers: dict[str, list[Operation]] = {name: [] for name in graph.shapes}
    for op in graph.operations:
        for name in dict.fromkeys(op.inputs):
            readers[name].append(op)
    return {name: tuple(ops) for name, ops in readers.items()}


def parameters(op: Operation) -> tuple[Parameter, ...]:
    """Return the parameters that an operation holds."""
    return tuple(value for value in vars(op).values() if isinstance(value, Parameter))
