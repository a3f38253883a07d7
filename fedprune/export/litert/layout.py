"""Channels first to channels last: shapes, axes, the order of flattened maps, and TFLite's two kinds of padding."""

import numpy as np

from fedprune.graph import (
    Add,
    Clip,
    Concat,
    Conv2d,
    Graph,
    HardSwish,
    Linear,
    Multiply,
    Operation,
    Reshape,
    Sigmoid,
    Softmax,
    Tanh,
    UnsupportedOperation,
)
from fedprune.types import Tensor

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]

_LAST = (0, 3, 1, 2)  # axis of a (1, C, H, W) map -> its place in (1, H, W, C)


def shape(first: tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels-last shape; a vector is a map of one position, ``(1, 1, 1, F)``."""
    return (first[0], *first[2:], first[1]) if len(first) == 4 else (first[0], 1, 1, first[1])


def axis(index: int, rank: int) -> int:
    """Return where an axis of a channels-first tensor lies in the channels-last one."""
    return _LAST[index] if rank == 4 else (0, 3)[index]


def orders(graph: Graph) -> dict[str, Tensor]:
    """Return vector -> the channels-first position of each of its values, in the order the file holds them.

    Vectors are tensors of one position. A map flattened channels last is a permutation of torch's vector; it passes
    through operations that treat values alike, until the columns of a linear layer are permuted to match it.

    Raises ``UnsupportedOperation`` where a permuted vector meets one of another order, a map, or an output.
    """
    found: dict[str, Tensor] = {}
    for op in graph.operations:
        plain = _plain(graph.shapes[op.output])
        is_vector = plain.size == graph.shapes[op.output][1]
        vectors = [found[name] for name in op.inputs if name in found]
        if isinstance(op, Linear):
            order = plain
        elif isinstance(op, Reshape):
            order = vectors[0] if vectors else _plain(graph.shapes[op.inputs[0]])
            if not is_vector and not np.array_equal(order, plain):
                raise _unordered(op)
        elif isinstance(op, Concat) and len(vectors) == len(op.inputs):
            starts = np.cumsum([0, *(len(vector) for vector in vectors)])
            order = np.concatenate([vector + start for vector, start in zip(vectors, starts, strict=False)])
        elif vectors and (isinstance(op, _ALIKE) or per_channel(op)):
            order = vectors[0]
            if not all(np.array_equal(order, vector) for vector in vectors):
                raise _unordered(op)
        else:
            order = plain
            if any(not np.array_equal(vector, np.arange(len(vector))) for vector in vectors):
                raise _unordered(op)
        if is_vector:
            found[op.output] = order
    for name in graph.outputs:
        if name in found and not np.array_equal(found[name], np.arange(len(found[name]))):
            raise UnsupportedOperation(f"output {name} is a flattened map, whose values lie channels last in the file")
    return found


_ALIKE = (Clip, Add, Multiply, Softmax, Sigmoid, Tanh, HardSwish)


def per_channel(op: Operation) -> bool:
    """Return whether ``op`` is a convolution that scales and shifts each channel alone, as a batch norm does."""
    return isinstance(op, Conv2d) and op.weight.value.shape == (op.groups, 1, 1, 1)


def _plain(first: tuple[int, ...]) -> Tensor:
    indices = np.arange(int(np.prod(first))).reshape(first)
    return (indices.transpose(0, 2, 3, 1) if len(first) == 4 else indices).ravel()


def _unordered(op: Operation) -> UnsupportedOperation:
    return UnsupportedOperation(f"{type(op).__name__} {op.output} would need its values moved between channel orders")


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
