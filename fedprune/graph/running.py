"""Running a graph in float32, every tensor kept: what calibration reads, and what a trace is tested against."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from fedprune.graph.activations import (
    Abs,
    Add,
    Clip,
    Constant,
    Divide,
    Elu,
    Exp,
    Gelu,
    HardSwish,
    LeakyRelu,
    LogSoftmax,
    Maximum,
    Minimum,
    Multiply,
    Narrow,
    PRelu,
    Reduce,
    Rsqrt,
    Sigmoid,
    Softmax,
    Subtract,
    Tanh,
    Widen,
)
from fedprune.graph.moving import Concat, Pad, Permute, PixelShuffle, PixelUnshuffle, Reshape, Resize, Slice
from fedprune.graph.operations import (
    FREE,
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
    Parameter,
    Shape,
    TransposedConv2d,
)
from fedprune.graph.recurrent import Gru, Lstm, Recurrent, Rnn
from fedprune.types import FloatTensor, Tensor

if TYPE_CHECKING:
    import torch


def run(graph: Graph, inputs: Tensor) -> dict[str, FloatTensor]:
    """Return every tensor of the graph, by name, for a batch of inputs ``(n, C, H, W)`` or ``(n, C, L)``.

    Raises ``ValueError`` if a sample has not as many values as the graph's input.
    """
    import torch

    shape = graph.shapes[graph.input][1:]
    if np.prod(inputs.shape[1:]) != np.prod(shape):
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} do not fit the graph's input {shape}")
    first = torch.as_tensor(np.asarray(inputs, dtype=np.float32)).reshape(-1, *shape)
    with torch.no_grad():
        if len(first) > 1 and moves_batch(graph):  # then only a batch of one is what the shapes say
            each = [_values(graph, one[None]) for one in first]
            joined = {name: np.concatenate if shape[0] == 1 else np.stack for name, shape in graph.shapes.items()}
            return {name: join([one[name].numpy() for one in each]) for name, join in joined.items()}
        return {name: value.numpy() for name, value in _values(graph, first).items()}


def moves_batch(graph: Graph) -> bool:
    """Return whether a graph computes samples one at a time only, since its batch does not always lie first."""
    computed = {op.output for op in graph.operations if not isinstance(op, Constant)}
    return any(graph.shapes[name][0] != 1 for name in computed) or any(
        isinstance(op, Permute) and op.order[0] != 0 for op in graph.operations
    )


def _values(graph: Graph, first: "torch.Tensor") -> "dict[str, torch.Tensor]":
    values = {graph.input: first}
    for op in graph.operations:
        values[op.output] = clipped(op, compute(graph, op, [values[name] for name in op.inputs]))
    return values


def compute(graph: Graph, op: Operation, arguments: "list[torch.Tensor]") -> "torch.Tensor":
    """Return what one operation of the graph makes of a batch of each of its inputs, before its bounds."""
    result: torch.Tensor = RULES[type(op)](op, graph.shapes[op.output], *arguments)
    return result


def clipped(op: Operation, values: "torch.Tensor") -> "torch.Tensor":
    """Return ``values`` within the operation's bounds, where it has any."""
    bounds = getattr(op, "bounds", FREE)
    return values if bounds == FREE else values.clamp(bounds.low, bounds.high)


def _constant(parameter: Parameter | None) -> "torch.Tensor | None":
    import torch

    return None if parameter is None else torch.from_numpy(np.ascontiguousarray(parameter.value))


def _conv(op: Conv2d, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    (top, bottom), (left, right) = op.padding
    symmetric = top == bottom and left == right
    padded = x if symmetric else F.pad(x, (left, right, top, bottom))
    weight, bias = _constant(op.weight), _constant(op.bias)
    assert weight is not None
    return F.conv2d(padded, weight, bias, op.stride, (top, left) if symmetric else 0, op.dilation, op.groups)


def _linear(op: Linear, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    weight = _constant(op.weight)
    assert weight is not None
    return F.linear(x, weight, _constant(op.bias))


def _batch_norm(op: BatchNorm, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    weight, bias, mean, variance = (_constant(part) for part in (op.weight, op.bias, op.mean, op.variance))
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=op.epsilon)


def _max_pool(op: MaxPool, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    (top, bottom), (left, right) = op.padding
    padded = F.pad(x, (left, right, top, bottom), value=-np.inf)
    return F.max_pool2d(padded, op.kernel, op.stride)


def _avg_pool(op: AvgPool, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.avg_pool2d(x, op.kernel, op.stride)


def _pad(op: Pad, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.pad(x, [cells for sides in reversed(op.padding) for cells in sides])


def _slice(op: Slice, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    return x[tuple(slice(op.start, op.stop, op.step) if axis == op.axis else slice(None) for axis in range(x.ndim))]


def _concat(op: Concat, _: Shape, *parts: "torch.Tensor") -> "torch.Tensor":
    import torch

    batch = max(len(part) for part in parts) if op.axis else 1  # a constant has a batch of one
    whole = [part.expand(batch, *part.shape[1:]) if op.axis and len(part) < batch else part for part in parts]
    return torch.cat(whole, op.axis)


def _weight(parameter: Parameter) -> "torch.Tensor":
    value = _constant(parameter)
    assert value is not None
    return value


def _transposed(op: TransposedConv2d, shape: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    whole = F.conv_transpose2d(x, _weight(op.weight), _constant(op.bias), op.stride)
    (top, _), (left, _) = op.padding
    # what is cut off after may be less than nothing: then only the bias is there
    rows, columns = (
        max(0, before + size - there)
        for before, size, there in zip((top, left), shape[2:], whole.shape[2:], strict=True)
    )
    grown = F.pad(whole, (0, columns, 0, rows))
    if op.bias is not None and (rows or columns):
        grown += F.pad(whole.new_zeros(whole.shape), (0, columns, 0, rows), value=1) * _weight(op.bias).reshape(
            -1, 1, 1
        )
    return grown[:, :, top : top + shape[2], left : left + shape[3]]


def _group_norm(op: GroupNorm, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.group_norm(x, op.groups, _constant(op.weight), _constant(op.bias), op.epsilon)


def _layer_norm(op: LayerNorm, shape: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.layer_norm(x, shape[-len(op.axes) :], _constant(op.weight), _constant(op.bias), op.epsilon)


def _resize(op: Resize, shape: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    if not op.bilinear:
        return F.interpolate(x, shape[2:])
    return F.interpolate(x, shape[2:], mode="bilinear", align_corners=op.align_corners)


def _pixel_shuffle(op: PixelShuffle, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.pixel_shuffle(x, op.factor)


def _pixel_unshuffle(op: PixelUnshuffle, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.pixel_unshuffle(x, op.factor)


def _reduce(op: Reduce, shape: Shape, x: "torch.Tensor") -> "torch.Tensor":
    reductions: Mapping[str, Any] = {"mean": x.mean, "max": x.amax, "min": x.amin}
    result: torch.Tensor = reductions[op.function](op.axes, keepdim=len(shape) == x.ndim)
    return result


def _gelu(op: Gelu, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.gelu(x, approximate="tanh" if op.approximate else "none")


def _hard_swish(_: Operation, __: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.hardswish(x)


def _recurrent(op: Recurrent, _: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch

    states = x.flip(1)[:, :, 0] if op.reverse else x[:, :, 0]
    zeros = x.new_zeros(1, len(x), op.weight_hh.value.shape[1])
    held = (op.weight_ih, op.weight_hh, op.bias_ih, op.bias_hh)
    weights = [value for value in map(_constant, held) if value is not None]
    rest = (len(weights) == 4, 1, 0.0, False, False, True)  # one layer, no dropout, one direction, the batch first
    match op:
        case Gru():
            states = torch.gru(states, zeros, weights, *rest)[0]
        case Lstm():
            states = torch.lstm(states, (zeros, zeros), weights, *rest)[0]
        case Rnn():
            kernel = torch.rnn_relu if op.nonlinearity == "relu" else torch.rnn_tanh
            states = kernel(states, zeros, weights, *rest)[0]
    return (states.flip(1) if op.reverse else states)[:, :, None]


RULES: Mapping[type[Operation], Callable[..., Any]] = {
    Conv2d: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Pad: _pad,
    Slice: _slice,
    Concat: _concat,
    HardSwish: _hard_swish,
    TransposedConv2d: _transposed,
    GroupNorm: _group_norm,
    LayerNorm: _layer_norm,
    Resize: _resize,
    Reduce: _reduce,
    Embedding: lambda op, shape, x: _weight(op.weight)[x.long()][:, :, None],
    MatMul: lambda op, shape, x, y: x @ y,
    Constant: lambda op, shape: _weight(op.value),
    Permute: lambda op, shape, x: x.permute(op.order),
    PixelShuffle: _pixel_shuffle,
    PixelUnshuffle: _pixel_unshuffle,
    Clip: lambda op, shape, x: x,
    GlobalMean: lambda op, shape, x: x.mean((2, 3)).reshape(-1, *shape[1:]),
    Add: lambda op, shape, x, y: x + y,
    Subtract: lambda op, shape, x, y: x - y,
    Multiply: lambda op, shape, x, y: x * y,
    Divide: lambda op, shape, x, y: x / y,
    Maximum: lambda op, shape, x, y: x.maximum(y),
    Minimum: lambda op, shape, x, y: x.minimum(y),
    Reshape: lambda op, shape, x: x.reshape(-1, *shape[1:]),
    Softmax: lambda op, shape, x: x.softmax(op.axis),
    LogSoftmax: lambda op, shape, x: x.log_softmax(op.axis),
    Gelu: _gelu,
    LeakyRelu: lambda op, shape, x: x.clamp(min=0) + op.slope * x.clamp(max=0),
    PRelu: lambda op, shape, x: x.prelu(_weight(op.weight)),
    Elu: lambda op, shape, x: x.clamp(min=0) + x.clamp(max=0).expm1(),
    Abs: lambda op, shape, x: x.abs(),
    Widen: lambda op, shape, x: x,
    Narrow: lambda op, shape, x: x,
    Exp: lambda op, shape, x: x.exp(),
    Rsqrt: lambda op, shape, x: (x + op.epsilon).rsqrt(),
    Sigmoid: lambda op, shape, x: x.sigmoid(),
    Tanh: lambda op, shape, x: x.tanh(),
    **dict.fromkeys(get_args(Recurrent), _recurrent),
}
