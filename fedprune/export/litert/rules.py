"""One rule for each typed operation: the .tflite operators that compute it, channels last."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.export.litert.lowering import Lowering
from fedprune.export.litert.numbers import Numbers
from fedprune.graph import (
    FREE,
    RELU,
    RELU6,
    Add,
    AvgPool,
    Clip,
    Concat,
    Conv2d,
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
    Slice,
    Softmax,
    Tanh,
    UnsupportedOperation,
)
from fedprune.types import Tensor


def lower(graph: Graph, numbers: Numbers) -> File:
    """Return the file of ``graph``; only its input and outputs are named.

    Raises ``UnsupportedOperation`` for batch norms (fold them first) and for what the file format cannot say.
    """
    made = Lowering(graph, numbers)
    source = made.index(graph.input)
    for op in graph.operations:
        rule = _RULES.get(type(op))
        if rule is None:
            raise UnsupportedOperation(f"{type(op).__name__} {op.output}: fold batch norms before writing a file")
        rule(made, op)
    results = tuple(made.index(name) for name in graph.outputs)
    names = {source: "input", **{index: f"output{n or ''}" for n, index in enumerate(results)}}
    tensors = [
        FileTensor(**{**vars(tensor), "name": names[index]}) if index in names else tensor
        for index, tensor in enumerate(made.tensors)
    ]
    return File(tensors, made.operators, (source,), results)


def _conv(made: Lowering, op: Conv2d) -> None:
    weight = op.weight.value  # (out, in / groups, rows, columns)
    channels = made.graph.shapes[op.inputs[0]][1]
    source, padding = made.window(op, _extent(op), None)
    common = {
        "padding": padding,
        "strideH": op.stride[0],
        "strideW": op.stride[1],
        "dilationHFactor": op.dilation[0],
        "dilationWFactor": op.dilation[1],
        "fusedActivationFunction": made.clipping(op, op.bounds),
    }
    bias = _bias(op)
    if layout.per_channel(op) and op.inputs[0] in made.orders:
        order = made.orders[op.inputs[0]]
        weight, bias = weight[order], bias[order]
    if op.groups == channels and op.groups > 1:
        stored = weight.transpose(1, 2, 3, 0)  # (1, rows, columns, out): torch, too, keeps an input's outputs together
        constants = made.numbers.constants(stored, bias, 3, op.inputs[0], op.output)
        options = made.options("DepthwiseConv2D", depthMultiplier=len(weight) // channels, **common)
        code, version = "DEPTHWISE_CONV_2D", 0
    else:
        constants = made.numbers.constants(weight.transpose(0, 2, 3, 1), bias, 0, op.inputs[0], op.output)
        options = made.options("Conv2D", **common)
        code, version = "CONV_2D", _GROUPED if op.groups > 1 else 0
    inputs = (source, made.add(constants.weight), made.add(constants.bias))
    made.emit(code, inputs, made.index(op.output), options, version)


_GROUPED = 6  # the version of CONV_2D whose filters read a part of the channels


def _extent(op: Conv2d) -> tuple[int, int]:
    rows, columns = (d * (k - 1) + 1 for d, k in zip(op.dilation, op.weight.value.shape[2:], strict=True))
    return rows, columns


def _bias(op: Conv2d | Linear) -> Tensor:
    return np.zeros(len(op.weight.value), np.float32) if op.bias is None else op.bias.value


def _linear(made: Lowering, op: Linear) -> None:
    # As a convolution of one position: FULLY_CONNECTED has one scale for the whole matrix on runtimes in the field, and
    # its rounding differs between TFLM and LiteRT, while convolutions agree to the bit.
    weight = op.weight.value[:, made.orders[op.inputs[0]]] if op.inputs[0] in made.orders else op.weight.value
    constants = made.numbers.constants(weight[:, None, None, :], _bias(op), 0, op.inputs[0], op.output)
    clipping, padding = made.clipping(op, op.bounds), made.schema.Padding.VALID
    options = made.options("Conv2D", padding=padding, strideH=1, strideW=1, fusedActivationFunction=clipping)
    inputs = (made.index(op.inputs[0]), made.add(constants.weight), made.add(constants.bias))
    made.emit("CONV_2D", inputs, made.index(op.output), options)


def _max_pool(made: Lowering, op: MaxPool) -> None:
    before = made.producers.get(op.inputs[0])
    never_negative = getattr(before, "bounds", FREE).low >= 0  # zeros then lose as surely as nothing does
    needs_filler = op.padding != ((0, 0), (0, 0)) and not never_negative
    filler = made.add(made.numbers.least(op.inputs[0])) if needs_filler else None
    source, padding = made.window(op, op.kernel, filler)
    _pool(made, op, "MAX_POOL_2D", source, padding)


def _avg_pool(made: Lowering, op: AvgPool) -> None:
    _pool(made, op, "AVERAGE_POOL_2D", made.index(op.inputs[0]), made.schema.Padding.VALID)


def _pool(made: Lowering, op: MaxPool | AvgPool, code: str, source: int, padding: int) -> None:
    options = made.options(
        "Pool2D",
        padding=padding,
        strideH=op.stride[0],
        strideW=op.stride[1],
        filterHeight=op.kernel[0],
        filterWidth=op.kernel[1],
        fusedActivationFunction=made.clipping(op, op.bounds),
    )
    made.emit(code, (source,), made.index(op.output), options)


def _mean(made: Lowering, op: GlobalMean) -> None:
    inputs = (made.index(op.inputs[0]), made.integers([1, 2]))
    made.emit("MEAN", inputs, made.index(op.output), made.options("Reducer", keepDims=True))


def _reshape(made: Lowering, op: Reshape) -> None:
    shape = made.shape_of(op.output)
    if shape == made.shape_of(op.inputs[0]):
        made.alias(op.output, op.inputs[0])
        return
    options = made.options("Reshape", newShape=list(shape))
    made.emit("RESHAPE", (made.index(op.inputs[0]), made.integers(shape)), made.index(op.output), options)


def _both(code: str, options: str) -> Callable[[Lowering, Any], None]:
    def rule(made: Lowering, op: Add | Multiply) -> None:
        inputs = (made.index(op.inputs[0]), made.index(op.inputs[1]))
        clipping = made.clipping(op, op.bounds)
        made.emit(code, inputs, made.index(op.output), made.options(options, fusedActivationFunction=clipping))

    return rule


def _concat(made: Lowering, op: Concat) -> None:
    axis = layout.axis(op.axis, len(made.graph.shapes[op.output]))
    indices = [made.index(name) for name in op.inputs]
    while len(indices) > _JOINED:
        sizes = [made.tensors[index].shape for index in indices[:_JOINED]]
        shape = (*sizes[0][:axis], sum(size[axis] for size in sizes), *sizes[0][axis + 1 :])
        part = made.add(made.numbers.activation(op.output, shape))
        made.emit("CONCATENATION", tuple(indices[:_JOINED]), part, made.options("Concatenation", axis=axis))
        indices = [part, *indices[_JOINED:]]
    made.emit("CONCATENATION", tuple(indices), made.index(op.output), made.options("Concatenation", axis=axis))


_JOINED = 10  # TensorFlow Lite Micro concatenates no more at once


def _pad(made: Lowering, op: Pad) -> None:
    made.padded(op.inputs[0], op.padding, None, op.output)


def _slice(made: Lowering, op: Slice) -> None:
    sizes = made.shape_of(op.inputs[0])
    along = layout.axis(op.axis, len(made.graph.shapes[op.output]))
    ends = [(op.start, op.stop, op.step) if axis == along else (0, size, 1) for axis, size in enumerate(sizes)]
    constants = (made.integers(column) for column in zip(*ends, strict=True))
    made.emit(
        "STRIDED_SLICE", (made.index(op.inputs[0]), *constants), made.index(op.output), made.options("StridedSlice")
    )


def _clip(made: Lowering, op: Clip) -> None:
    code = {RELU: "RELU", RELU6: "RELU6"}[op.bounds]
    made.emit(code, (made.index(op.inputs[0]),), made.index(op.output))


def _softmax(made: Lowering, op: Softmax) -> None:
    made.emit("SOFTMAX", (made.index(op.inputs[0]),), made.index(op.output), made.options("Softmax", beta=1.0))


def _unary(code: str) -> Callable[[Lowering, Any], None]:
    return lambda made, op: made.emit(code, (made.index(op.inputs[0]),), made.index(op.output))


_RULES: Mapping[type[Operation], Callable[[Lowering, Any], None]] = {
    Conv2d: _conv,
    Linear: _linear,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    GlobalMean: _mean,
    Reshape: _reshape,
    Add: _both("ADD", "Add"),
    Multiply: _both("MUL", "Mul"),
    Concat: _concat,
    Pad: _pad,
    Slice: _slice,
    Clip: _clip,
    Softmax: _softmax,
    Sigmoid: _unary("LOGISTIC"),
    Tanh: _unary("TANH"),
    HardSwish: _unary("HARD_SWISH"),
}
