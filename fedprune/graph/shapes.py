"""Whether a graph from elsewhere can run: what each operation makes of the shapes that it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import get_args

import numpy as np

from fedprune.graph.activations import Binary, Constant, LogSoftmax, PRelu, Reduce, Softmax, Unary
from fedprune.graph.moving import Concat, Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Resize, Slice
from fedprune.graph.operations import (
    AvgPool,
    BatchNorm,
    Conv2d,
    Dropout,
    Embedding,
    GlobalMean,
    Graph,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Operation,
    Pair,
    Parameter,
    Shape,
    Sides,
    TransposedConv2d,
    parameters,
)
from fedprune.graph.recurrent import GATES, Recurrent

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
        _need(len(shape) > 1 and min(shape) > 0, f"{name!r:.80} has no shape of one sample")
    _need(sum(map(prod, graph.shapes.values())) <= MOST_VALUES, "its tensors hold too many values")
    _need(graph.input in graph.shapes, "it has no input")
    add(graph.input, graph.shapes[graph.input])
    for op in graph.operations:
        _need(all(name in there for name in op.inputs), f"{op.output!r:.80} reads what is not there yet")
        for parameter in parameters(op):
            _need(
                parameter.value.dtype == np.float32, f"{parameter.name!r:.80} is {parameter.value.dtype}, not float32"
            )
        add(op.output, of(op, [there[name] for name in op.inputs], graph.shapes.get(op.output, ())))
    _need(set(graph.outputs) <= there.keys() == graph.shapes.keys(), "nothing makes one of its tensors")


def _need(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(f"not a graph: {problem}")


def of(op: Operation, shapes: Sequence[Shape], said: Shape = ()) -> Shape:
    """The shape of what an operation makes of such ones; ``said`` tells where that does not follow from them.

    ValueError where it cannot run.
    """
    wanted = 2 if isinstance(op, Binary | MatMul) else 0 if isinstance(op, Constant) else 1
    rule = _RULES.get(type(op))
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


def _transposed(op: TransposedConv2d, said: Shape, x: Shape) -> Shape:
    weight = op.weight.value.shape
    _need(len(weight) == 4 and len(x) == 4 and weight[0] == x[1], "a transposed convolution of other channels")
    _need(min(op.stride) > 0 and max(op.stride) <= _MOST, "a window over no map")
    _vector(op.bias, weight[1])
    _need(max(abs(cells) for sides in op.padding for cells in sides) <= _MOST, "an impossible padding")
    sizes = [
        (side - 1) * by + kernel - sum(sides)
        for side, by, kernel, sides in zip(x[2:], op.stride, weight[2:], op.padding, strict=True)
    ]
    _need(min(sizes) > 0 and weight[1] * sizes[0] * sizes[1] <= MOST_VALUES, "a window over no map")
    return (1, weight[1], *sizes)


def _matmul(op: MatMul, said: Shape, x: Shape, y: Shape) -> Shape:
    _need(len(x) == len(y) == 4 and x[:2] == y[:2] and x[3] == y[2], "a product of matrices that do not fit")
    return (*x[:3], y[3])


def _embedding(op: Embedding, said: Shape, x: Shape) -> Shape:
    weight = op.weight.value.shape
    _need(len(x) == 2 and len(weight) == 2, "an embedding of no sequence")
    return (*x, 1, weight[1])


def _group_norm(op: GroupNorm, said: Shape, x: Shape) -> Shape:
    _need(op.groups > 0 and x[1] % op.groups == 0, "groups that its channels do not divide into")
    for parameter in (op.weight, op.bias):
        _vector(parameter, x[1])
    return x


def _layer_norm(op: LayerNorm, said: Shape, x: Shape) -> Shape:
    _need(op.axes == tuple(range(len(x) - len(op.axes), len(x))) and len(op.axes) > 0, "a norm over other axes")
    for parameter in (op.weight, op.bias):
        _need(parameter is None or parameter.value.shape == x[-len(op.axes) :], "a norm of other sizes")
    return x


def _constant(op: Constant, said: Shape) -> Shape:
    return tuple(op.value.value.shape)


def _reduce(op: Reduce, said: Shape, x: Shape) -> Shape:
    _need(op.function in ("mean", "max", "min"), "a reduction of no kind")
    _need(len({*op.axes}) == len(op.axes) > 0 and {*op.axes} <= {*range(len(x))}, "a reduction over no axis")
    return tuple(1 if axis in op.axes else size for axis, size in enumerate(x))


def _over_an_axis(op: Softmax | LogSoftmax, said: Shape, x: Shape) -> Shape:
    _need(0 < op.axis < len(x), "a softmax over no axis")
    return x


def _prelu(op: PRelu, said: Shape, x: Shape) -> Shape:
    _need(op.weight.value.shape in ((1,), (x[1],)), "a slope of other channels")
    return x


def _permute(op: Permute, said: Shape, x: Shape) -> Shape:
    _need(sorted(op.order) == list(range(len(x))), "a permutation of other axes")
    return tuple(x[axis] for axis in op.order)


def _shuffle(op: PixelShuffle, said: Shape, x: Shape) -> Shape:
    by = op.factor
    _need(len(x) == 4 and 0 < by <= _MOST and x[1] % by**2 == 0, "a shuffle of no whole blocks")
    return (1, x[1] // by**2, x[2] * by, x[3] * by)


def _unshuffle(op: PixelUnshuffle, said: Shape, x: Shape) -> Shape:
    by = op.factor
    _need(len(x) == 4 and 0 < by <= _MOST and x[2] % by == x[3] % by == 0, "a shuffle of no whole blocks")
    return (1, x[1] * by**2, x[2] // by, x[3] // by)


def _resize(op: Resize, said: Shape, x: Shape) -> Shape:
    _need(len(x) == len(said) == 4 and x[:2] == said[:2], "a resizing of no map")
    return said


def _pair(op: Operation, said: Shape, x: Shape, y: Shape) -> Shape:
    return tuple(np.broadcast_shapes(x, y))  # ValueError where they do not fit


def _concat(op: Concat, said: Shape, *shapes: Shape) -> Shape:
    first, axis = shapes[0] if shapes else (), op.axis
    _need(0 <= axis < len(first), "a concatenation along no axis")
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    _need(len(rest) == 1 and {len(shape) for shape in shapes} == {len(first)}, "a concatenation of unlike shapes")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _pad(op: Pad, said: Shape, x: Shape) -> Shape:
    _need(len(op.padding) == len(x), "a padding of other axes")
    return tuple(side + _added(sides) for side, sides in zip(x, op.padding, strict=True))


def _slice(op: Slice, said: Shape, x: Shape) -> Shape:
    _need(0 <= op.axis < len(x) and 0 < op.step <= _MOST, "a slice along no axis")
    _need(max(abs(op.start), abs(op.stop)) < 2**63, "a slice without end")
    kept = len(range(*slice(op.start, op.stop, op.step).indices(x[op.axis])))
    return (*x[: op.axis], kept, *x[op.axis + 1 :])


def _reshape(op: Reshape, said: Shape, x: Shape) -> Shape:
    _need(prod(said) == prod(x), "a reshape that changes how many values there are")
    return said


def _recurrent(op: Recurrent, said: Shape, x: Shape) -> Shape:
    rows, states = op.weight_hh.value.shape if op.weight_hh.value.ndim == 2 else (0, 0)
    _need(len(x) == 4 and x[2] == 1 and rows == GATES[type(op)] * states > 0, "a recurrent layer of no sequence")
    _need(op.weight_ih.value.shape == (rows, x[3]), "a recurrent layer of other inputs")
    _need(getattr(op, "nonlinearity", "tanh") in ("tanh", "relu"), "a recurrent layer of no kind")
    _need((op.bias_ih is None) == (op.bias_hh is None), "a recurrent layer of half its biases")
    for bias in (op.bias_ih, op.bias_hh):
        _vector(bias, rows)
    return (*x[:3], states)


def _dropout(op: Dropout, said: Shape, x: Shape) -> Shape:
    _need(0 < op.chance <= 1, "a dropout by no chance")
    return x


def _same(op: Operation, said: Shape, x: Shape) -> Shape:
    return x


_RULES: Mapping[type[Operation], Callable[..., Shape]] = {
    Conv2d: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    GlobalMean: _mean,
    TransposedConv2d: _transposed,
    MatMul: _matmul,
    Embedding: _embedding,
    GroupNorm: _group_norm,
    LayerNorm: _layer_norm,
    Constant: _constant,
    Reduce: _reduce,
    Permute: _permute,
    PixelShuffle: _shuffle,
    PixelUnshuffle: _unshuffle,
    Resize: _resize,
    PRelu: _prelu,
    Dropout: _dropout,
    **dict.fromkeys((Softmax, LogSoftmax), _over_an_axis),
    **dict.fromkeys(get_args(Binary), _pair),
    Concat: _concat,
    Pad: _pad,
    Slice: _slice,
    Reshape: _reshape,
    **dict.fromkeys(get_args(Unary), _same),
    **dict.fromkeys(get_args(Recurrent), _recurrent),
}
