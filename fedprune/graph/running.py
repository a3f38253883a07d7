"""Running a graph in float32, every tensor kept: what calibration reads, and what a trace is tested against."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.graph.activations import Add, Clip, HardSwish, Multiply, Sigmoid, Softmax, Tanh
from fedprune.graph.moving import Concat, Pad, Reshape, Slice
from fedprune.graph.operations import (
    FREE,
    AvgPool,
    BatchNorm,
    Conv2d,
    GlobalMean,
    Graph,
    Linear,
    MaxPool,
    Operation,
    Parameter,
    Shape,
)
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
    values = {graph.input: first}
    with torch.no_grad():
        for op in graph.operations:
            arguments = [values[name] for name in op.inputs]
            result = _RULES[type(op)](op, graph.shapes[op.output], *arguments)
            bounds = getattr(op, "bounds", FREE)
            values[op.output] = result if bounds == FREE else result.clamp(bounds.low, bounds.high)
    return {name: value.numpy() for name, value in values.items()}


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

    return torch.cat(parts, op.axis)


def _hard_swish(_: Operation, __: Shape, x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as F

    return F.hardswish(x)


_RULES: Mapping[type[Operation], Callable[..., Any]] = {
    Conv2d: _conv,
    Linear: _linear,
    BatchNorm: _batch_norm,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    Pad: _pad,
    Slice: _slice,
    Concat: _concat,
    HardSwish: _hard_swish,
    Clip: lambda op, shape, x: x,
    GlobalMean: lambda op, shape, x: x.mean((2, 3)).reshape(-1, *shape[1:]),
    Add: lambda op, shape, x, y: x + y,
    Multiply: lambda op, shape, x, y: x * y,
    Reshape: lambda op, shape, x: x.reshape(-1, *shape[1:]),
    Softmax: lambda op, shape, x: x.softmax(-1),
    Sigmoid: lambda op, shape, x: x.sigmoid(),
    Tanh: lambda op, shape, x: x.tanh(),
}
