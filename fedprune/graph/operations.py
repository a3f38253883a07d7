"""The typed operations of a graph, and the graph itself: plain data, read by cost, surgery, export and training.

Tensors are channels first with a batch of one: ``(1, C, H, W)`` maps and ``(1, F)`` vectors. A map of one spatial
dimension ``(1, C, L)`` is held as ``(1, C, 1, L)``, so that a one-dimensional convolution is a two-dimensional one of
height 1 and no reader needs both.
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
class Linear(Operation):
    """``x W^T + b``."""

    weight: Parameter  # (out, in)
    bias: Parameter | None
    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class BatchNorm(Operation):
    """``(x - mean) / sqrt(variance + epsilon) * weight + bias`` a channel, with the running statistics."""

    weight: Parameter | None
    bias: Parameter | None
    mean: Parameter
    variance: Parameter
    epsilon: float


@dataclass(frozen=True, eq=False)
class Clip(Operation):
    """``min(max(x, low), high)``; ReLU and ReLU6 are its only bounds in a traced graph."""

    bounds: Bounds


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
class Add(Operation):
    """The sum of two tensors of one shape."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Multiply(Operation):
    """The product of two tensors; one may be ``(1, C, 1, 1)``, a gate of channels."""

    bounds: Bounds = FREE


@dataclass(frozen=True, eq=False)
class Concat(Operation):
    """The inputs one after the other along ``axis``."""

    axis: int


@dataclass(frozen=True, eq=False)
class Pad(Operation):
    """Zeros added (before, after) along each axis, the batch's first."""

    padding: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Slice(Operation):
    """``x[start:stop:step]`` along ``axis``."""

    axis: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same values, in order, in the shape of the output; flatten is one."""


@dataclass(frozen=True, eq=False)
class Softmax(Operation):
    """``exp(x) / sum exp(x)`` over the last axis of a vector."""


@dataclass(frozen=True, eq=False)
class Sigmoid(Operation):
    """``1 / (1 + exp(-x))``."""


@dataclass(frozen=True, eq=False)
class Tanh(Operation):
    """``tanh(x)``."""


@dataclass(frozen=True, eq=False)
class HardSwish(Operation):
    """``x min(max(x + 3, 0), 6) / 6``."""


Bounded = Conv2d | Linear | MaxPool | AvgPool | Add | Multiply
"""Operations that clip their own output."""


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
