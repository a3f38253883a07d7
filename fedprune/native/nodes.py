"""A graph as the trainer takes it: layers with the activation that follows, norms with what is added after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedprune.graph import (
    Add,
    AvgPool,
    BatchNorm,
    Bounds,
    Clip,
    Concat,
    Conv2d,
    Dropout,
    GlobalMean,
    Graph,
    HardSwish,
    Linear,
    MaxPool,
    Multiply,
    Operation,
    Pad,
    Reshape,
    Sigmoid,
    Tanh,
    consumers,
    parameters,
)
from fedprune.graph.operations import FREE, Shape
from fedprune.native.steps import Size

_COVERED = (
    Add, AvgPool, BatchNorm, Clip, Concat, Conv2d, Dropout, GlobalMean, HardSwish, Linear, MaxPool, Multiply, Pad,
    Reshape, Sigmoid, Tanh,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Node:
    """One operation, and what is computed with it on the way to its output."""

    op: Operation
    output: str
    bounds: Bounds = FREE
    """Of the output."""
    other: str | None = None
    """What is added to a batch norm's result, before the bounds."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return self.op.inputs if self.other is None else (*self.op.inputs, self.other)


def not_covered(graph: Graph) -> str | None:
    """Why a graph is not trained here, naming the operation; None where it is."""
    if len(graph.outputs) != 1:
        return f"the model has {len(graph.outputs)} outputs"
    names = [name for op in graph.operations for name in _names(op)]
    if len(names) != len(set(names)):
        return f"{next(name for name in names if names.count(name) > 1)} is a weight of two layers"
    for op in sorted(graph.operations, key=lambda op: isinstance(op, _COVERED)):  # what is not there at all comes first
        if why := _why_not(op, graph.shapes):
            return f"{type(op).__name__} in {graph.modules.get(op.output) or op.output!r}{why}"
    return None


def _names(op: Operation) -> list[str]:
    return [parameter.name for parameter in parameters(op)]


def _why_not(op: Operation, shapes: Mapping[str, Shape]) -> str:
    if not isinstance(op, _COVERED):
        return " has no kernels"
    before, after = [shapes[name] for name in op.inputs], shapes[op.output]
    if any(len(shape) not in (2, 4) or shape[0] != 1 for shape in (*before, after)):
        return " is neither of vectors nor of maps"
    if isinstance(op, Linear) and len(before[0]) != 2:
        return " is over the last axis of a map"
    if isinstance(op, Add | Multiply) and before[0] != before[1]:
        one, other = sorted(map(size_of, before), key=lambda size: size.height * size.width)
        if isinstance(op, Add) or (one.height, one.width) != (1, 1) or one.channels != other.channels:
            return " is of two shapes"
    if isinstance(op, Multiply) and op.inputs[0] == op.inputs[1]:
        return " is of one tensor with itself"
    if isinstance(op, Concat) and op.axis != 1:
        return " is not along the channels"
    if isinstance(op, Reshape) and 2 not in (len(before[0]), len(after)):
        return " is neither to a vector nor from one"
    if isinstance(op, BatchNorm) and not op.momentum:
        return " averages over all batches"
    if isinstance(op, MaxPool) and op.kernel[0] * op.kernel[1] > 1024:
        return " has a window of over 1,024 cells"
    return ""


def size_of(shape: Shape) -> Size:
    """Channels, height and width of a tensor of a graph; a vector is of channels."""
    return Size(shape[1], *(shape[2:] if len(shape) == 4 else (1, 1)))


def nodes(graph: Graph) -> list[Node]:
    """The nodes of a covered graph, in an order in which they can run."""
    readers = consumers(graph)
    merged: set[str] = set()  # outputs of operations that are part of a node that began before them
    found: list[Node] = []

    def only(name: str) -> Operation | None:
        after = readers[name]
        return after[0] if len(after) == 1 and name not in graph.outputs else None

    def clip(name: str) -> tuple[str, Bounds]:
        after = only(name)
        if isinstance(after, Clip):
            merged.add(after.output)
            return after.output, after.bounds
        return name, FREE

    padded: dict[str, Pad] = {}
    held: dict[str, Node] = {}  # output of an addition -> the norm that takes it over
    for op in graph.operations:
        if isinstance(op, Pad) and isinstance(only(op.output), Conv2d) and not any(map(any, op.padding[:2])):
            padded[op.output] = op  # which the layer does by itself
            continue
        if isinstance(op, Conv2d) and op.inputs[0] in padded:
            op = _padding(op, padded[op.inputs[0]])
        if op.output in held:
            node = held[op.output]
            found.append(Node(node.op, *clip(op.output), node.other))
        elif op.output in merged:
            continue
        elif isinstance(op, BatchNorm):
            after = only(op.output)
            if isinstance(after, Add) and after.output not in held and after.inputs[0] != after.inputs[1]:
                other = after.inputs[after.inputs[0] == op.output]
                if graph.shapes[other] == graph.shapes[op.output]:
                    held[after.output] = Node(op, after.output, FREE, other)
                    continue
            found.append(Node(op, *clip(op.output)))
        elif isinstance(op, Conv2d | Linear | Add | MaxPool | AvgPool):
            found.append(Node(op, *clip(op.output)))
        else:
            found.append(Node(op, op.output, op.bounds if isinstance(op, Clip) else FREE))
    return found


def each_alone(graph: Graph) -> list[Node]:
    """A node for each operation of a covered graph, so that every tensor of it is computed; in their order."""
    return [Node(op, op.output, getattr(op, "bounds", FREE)) for op in graph.operations]


def _padding(op: Conv2d, pad: Pad) -> Conv2d:
    (top, bottom), (left, right) = op.padding
    (above, below), (before, after) = pad.padding[2:]
    return replace(op, inputs=pad.inputs, padding=((top + above, bottom + below), (left + before, right + after)))
