"""Whether a graph from elsewhere can run: what each operation makes of the shapes that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from fedprune.graph.activations import Add, Clip, HardSwish, Multiply, Sigmoid, Softmax, Tanh
from fedprune.graph.moving import Concat, Pad, Reshape, Slice
from fedprune.graph.operations import (
    AvgPool,
    BatchNorm,
    Conv2d,
    GlobalMean,
    Graph,
    Linear,
    MaxPool,
    Operation,
    Pair,
    Parameter,
    Shape,
    Sides,
    parameters,
)

MOST_VALUES = 2**26
"""Of all tensors of a graph together, for one sample; padded ones count as they are read."""
_MOST = 2**20  # of a stride, a side, a number of groups


def check(graph: Graph) -> None:
    """ValueError where a graph's operations do not fit together, or not with its shapes; a batch is of one."""
    there: dict[str, Shape] = {}

    def add(name: str, shape: Shape) -> None:
        _need(name not in there and graph.shapes.get(name) == shape, f"{name!r:.80} is not of the shape {shape}")
        there[name] = shape

    for name, shape in graph.shapes.items():
        _need(len(shape) > 1 and shape[0] == 1 and min(shape) > 0, f"{name!r:.80} has no shape of one sample")
    _need(sum(map(prod, graph.shapes.values())) <= MOST_VALUES, "its tensors hold too many values")
    _need(graph.input in graph.shapes, "it has no input")
    add(graph.input, graph.shapes[graph.input])
    for op in graph.operations:
        _need(all(name in there for name in op.inputs), f"{op.output!r:.80} reads what is not there yet")
        for parameter in parameters(op):
            _need(
                parameter.value.dtype == np.float32, f"{parameter.name!r:.80} is {parameter.value.dtype}, not float32"
            )
        add(op.output, _shape(op, [there[name] for name in op.inputs], graph.shapes.get(op.output, ())))
    _need(set(graph.outputs) <= there.keys() == graph.shapes.keys(), "nothing makes one of its tensors")


def _need(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(f"not a graph: {problem}")


def _shape(op: Operation, shapes: Sequence[Shape], said: Shape) -> Shape:
    rule, wanted = _RULES.get(type(op)), 2 if isinstance(op, Add | Multiply) else 1
    if rule is None or not (isinstance(op, Concat) or len(shapes) == wanted):
        raise ValueError(f"not a graph: {op.output!r:.80} is of {len(shapes)} inputs")
    return rule(op, said, *shapes)


def _window(x: Shape, kernel: Sequence[int], stride: Pair, padding: Sides, dilation: Pair) -> list[int]:
    """Rows and columns of what a window that slides over a map sees."""
    given = (*kernel, *stride, *dilation)
    _need(len(x) == 4 and min(given) > 0 and max(given) <= _MOST, "a window over no map")
    padded = [side + _added(sides) for side, sides in zip(x[2:], padding, strict=True)]
    _need(x[1] * prod(padded) <= MOST_VALUES, "too much padding")
    return [
        (side - step * (size - 1) - 1) // by + 1
        for side, size, by, step in zip(padded, kernel, stride, dilation, strict=True)
    ]


def _added(sides: Sequence[int]) -> int:
    _need(min(sides) >= 0 and max(sides) <= _MOST, "an impossible padding")
    return sum(sides)


def _vector(parameter: Parameter | None, size: int) -> None:
    _need(parameter is None or parameter.value.shape == (size,), "a parameter of another length than its channels")


def _conv(op: Conv2d, said: Shape, x: Shape) -> Shape:
    weight = op.weight.value.shape
    _need(len(weight) == 4 and 0 < op.groups <= _MOST and weight[0] % op.groups == 0, "a weight of no convolution")
    rows, columns = _window(x, weight[2:], op.stride, op.padding, op.dilation)
    _need(x[1] == weight[1] * op.groups, "a convolution of other channels")
    _vector(op.bias, weight[0])
    return (1, weight[0], rows, columns)


def _linear(op: Linear, said: Shape, x: Shape) -> Shape:
    weight = op.weight.value.shape
    _need(len(weight) == 2 and weight[1] == x[-1], "a linear layer of other inputs")
    _vector(op.bias, weight[0])
    return (*x[:-1], weight[0])


def _batch_norm(op: BatchNorm, said: Shape, x: Shape) -> Shape:
    for parameter in (op.weight, op.bias, op.mean, op.variance):
        _vector(parameter, x[1])
    return x


def _max_pool(op: MaxPool, said: Shape, x: Shape) -> Shape:
    return (1, x[1], *_window(x, op.kernel, op.stride, op.padding, (1, 1)))


def _avg_pool(op: AvgPool, said: Shape, x: Shape) -> Shape:
    return (1, x[1], *_window(x, op.kernel, op.stride, ((0, 0), (0, 0)), (1, 1)))


def _mean(op: GlobalMean, said: Shape, x: Shape) -> Shape:
    _need(len(x) == 4, "a mean over no map")
    return said if said == (1, x[1]) else (1, x[1], 1, 1)


def _pair(op: Operation, said: Shape, x: Shape, y: Shape) -> Shape:
    return tuple(np.broadcast_shapes(x, y))  # ValueError where they do not fit


def _concat(op: Concat, said: Shape, *shapes: Shape) -> Shape:
    first, axis = shapes[0] if shapes else (), op.axis
    _need(0 < axis < len(first), "a concatenation along no axis")
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    _need(len(rest) == 1 and {len(shape) for shape in shapes} == {len(first)}, "a concatenation of unlike shapes")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _pad(op: Pad, said: Shape, x: Shape) -> Shape:
    _need(len(op.padding) == len(x) and op.padding[0] == (0, 0), "a padding of other axes")
    return tuple(side + _added(sides) for side, sides in zip(x, op.padding, strict=True))


def _slice(op: Slice, said: Shape, x: Shape) -> Shape:
    _need(0 < op.axis < len(x) and 0 < op.step <= _MOST, "a slice along no axis")
    _need(max(abs(op.start), abs(op.stop)) < 2**63, "a slice without end")
    kept = len(range(*slice(op.start, op.stop, op.step).indices(x[op.axis])))
    return (*x[: op.axis], kept, *x[op.axis + 1 :])


def _reshape(op: Reshape, said: Shape, x: Shape) -> Shape:
    _need(prod(said) == prod(x), "a reshape that changes how many values there are")
    return said


def _same(op: Operation, said: Shape, x: Shape) -> Shape:
    return x


_RULES: Mapping[type[Operation], Callable[..., Shape]] = {
    Conv2d: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    GlobalMean: _mean,
    Add: _pair,
    Multiply: _pair,
    Concat: _concat,
    Pad: _pad,
    Slice: _slice,
    Reshape: _reshape,
    **dict.fromkeys((Clip, Softmax, Sigmoid, Tanh, HardSwish), _same),
}
