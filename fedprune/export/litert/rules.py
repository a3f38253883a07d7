"""One rule for each operation with weights or windows: the .tflite operators that compute it, channels last."""

from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.export.litert.lowering import Lowering, Seen
from fedprune.export.litert.numbers import Numbers, takes_tokens
from fedprune.export.litert.recurrent import recurrent
from fedprune.export.litert.rules_moves import MOVES
from fedprune.export.litert.rules_reduce import reduce_axes
from fedprune.export.litert.rules_values import VALUES
from fedprune.graph import (
    FREE,
    AvgPool,
    Conv2d,
    Embedding,
    GlobalMean,
    Graph,
    Linear,
    MatMul,
    MaxPool,
    Operation,
    Recurrent,
    TransposedConv2d,
    UnsupportedOperation,
)
from fedprune.types import Tensor


def lower(graph: Graph, numbers: Numbers) -> File:
    """Return the file of ``graph``; only its input and outputs are named.

    Raises ``UnsupportedOperation`` for batch norms (fold them first) and for what the file format cannot say.
    """
    made = Lowering(graph, numbers)
    first = graph.shapes[graph.input]
    if takes_tokens(graph):
        source = made.add(FileTensor((1, first[-1]), np.dtype(np.int32)))
        made.seen[graph.input] = Seen(source, layout.plain(first, range(len(first))))
    else:
        source = made.map(graph.input)
    for op in graph.operations:
        rule = _RULES.get(type(op))
        if rule is None:
            raise UnsupportedOperation(f"{type(op).__name__} {op.output}: fold batch norms before writing a file")
        rule(made, op)
    results = tuple(_end(made, name) for name in graph.outputs)
    names = {source: "input", **{index: f"output{n or ''}" for n, index in enumerate(results)}}
    tensors = [
        FileTensor(**{**vars(tensor), "name": names[index]}) if index in names else tensor
        for index, tensor in enumerate(made.tensors)
    ]
    return File(tensors, made.operators, (source,), results, made.subgraphs)


def _end(made: Lowering, name: str) -> int:
    """The file's tensor that holds an output: channels last, but of a net of tokens a sequence place by place."""
    first = made.shape(name)
    if takes_tokens(made.graph) and len(first) == 4 and first[2] == 1:
        return made.read(name, range(4), (1, first[1], first[3]))
    return made.read_map(name)


def _conv(made: Lowering, op: Conv2d) -> None:
    weight = op.weight.value  # (out, in / groups, rows, columns)
    bias = _bias(op)
    channels = made.shape(op.inputs[0])[1]
    order = None
    if per_channel(op) and set(made.shape(op.inputs[0])[2:]) == {1}:
        source, order = made.vector(op.inputs[0])
        weight, bias, padding = weight[order], bias[order], made.schema.Padding.VALID
    else:
        source, padding = window(made, op, _extent(op), None)
    common = {
        "padding": padding,
        "strideH": op.stride[0],
        "strideW": op.stride[1],
        "dilationHFactor": op.dilation[0],
        "dilationWFactor": op.dilation[1],
        "fusedActivationFunction": made.clipping(op, op.bounds),
    }
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
    before = made.seen.get(op.inputs[0])
    made.emit(code, inputs, made.map(op.output), options, version)
    if order is not None and before is not None:  # the channels stay in the order in which they came
        made.seen[op.output] = made.seen[op.output]._replace(dims=before.dims, order=before.order)


_GROUPED = 6  # the version of CONV_2D whose filters read a part of the channels


def per_channel(op: Operation) -> bool:
    """Return whether ``op`` is a convolution that scales and shifts each channel alone, as a batch norm does."""
    return isinstance(op, Conv2d) and op.weight.value.shape == (op.groups, 1, 1, 1)


def _extent(op: Conv2d) -> tuple[int, int]:
    rows, columns = (d * (k - 1) + 1 for d, k in zip(op.dilation, op.weight.value.shape[2:], strict=True))
    return rows, columns


def _bias(op: Conv2d | Linear) -> Tensor:
    return np.zeros(len(op.weight.value), np.float32) if op.bias is None else op.bias.value


def window(made: Lowering, op: Conv2d | MaxPool, kernel: tuple[int, int], filler: int | None) -> tuple[int, int]:
    """Return (index of the input, padding kind), after a PAD operator where neither SAME nor VALID says it.

    ``filler`` is the scalar to pad with; None pads zeros.
    """
    source, index = op.inputs[0], made.read_map(op.inputs[0])
    size, result = made.shape(source)[2:], made.shape(op.output)[2:]
    needed = layout.reach((size[0], size[1]), (result[0], result[1]), kernel, op.stride, op.padding)
    kinds = made.schema.Padding
    if needed == ((0, 0), (0, 0)):
        return index, kinds.VALID
    if needed == layout.same((size[0], size[1]), kernel, op.stride):
        return index, kinds.SAME
    sides = ((0, 0), *needed, (0, 0))
    shape = tuple(length + sum(ends) for length, ends in zip(made.tensors[index].shape, sides, strict=True))
    padded = made.add(made.numbers.activation(source, shape))
    if filler is None:
        made.emit("PAD", (index, made.integers(sides)), padded, made.options("Pad"))
    else:
        made.emit("PADV2", (index, made.integers(sides), filler), padded, made.options("PadV2"))
    return padded, kinds.VALID


def _transposed_conv(made: Lowering, op: TransposedConv2d) -> None:
    weight = op.weight.value.transpose(1, 2, 3, 0)  # (out, rows, columns, in)
    bias = np.zeros(len(weight), np.float32) if op.bias is None else op.bias.value
    constants = made.numbers.constants(weight, bias, 0, op.inputs[0], op.output)
    size, result = made.shape(op.inputs[0])[2:], made.shape(op.output)
    whole = [(n - 1) * s + k for n, s, k in zip(size, op.stride, weight.shape[1:3], strict=True)]
    # VALID makes the whole; more, where the model's output_padding asks for it, of which the bias alone is known
    made_size = [max(w, out + before) for w, out, (before, _) in zip(whole, result[2:], op.padding, strict=True)]
    shape = (1, *made_size, len(weight))
    options = made.options(
        "TransposeConv",
        padding=made.schema.Padding.VALID,
        strideH=op.stride[0],
        strideW=op.stride[1],
        fusedActivationFunction=made.clipping(op, op.bounds),
    )
    source = made.read_map(op.inputs[0])
    inputs = (made.integers(shape), made.add(constants.weight), source, made.add(constants.bias))
    cropped = shape[1:3] != result[2:]
    target = made.add(made.numbers.activation(op.output, shape)) if cropped else made.map(op.output)
    made.emit("TRANSPOSE_CONV", inputs, target, options, 3)
    if cropped:
        begin = [0, op.padding[0][0], op.padding[1][0], 0]
        end = [1, begin[1] + result[2], begin[2] + result[3], len(weight)]
        constants_of = (made.integers(column) for column in (begin, end, [1, 1, 1, 1]))
        made.emit("STRIDED_SLICE", (target, *constants_of), made.map(op.output), made.options("StridedSlice"))


def _linear(made: Lowering, op: Linear) -> None:
    # As a convolution of one position: FULLY_CONNECTED has one scale for the whole matrix on runtimes in the field, and
    # its rounding differs between TFLM and LiteRT, while convolutions agree to the bit.
    first, weight = made.shape(op.inputs[0]), op.weight.value
    result = made.shape(op.output)
    if np.prod(first) == first[-1]:
        source, order = made.vector(op.inputs[0])
        weight, shape = weight[:, order], (1, 1, 1, result[-1])
    else:
        rows = int(np.prod(first[:-1]))
        source = made.read(op.inputs[0], range(len(first)), (1, 1, rows, first[-1]))
        shape = (1, 1, rows, result[-1])
    constants = made.numbers.constants(weight[:, None, None, :], _bias(op), 0, op.inputs[0], op.output)
    clipping, padding = made.clipping(op, op.bounds), made.schema.Padding.VALID
    options = made.options("Conv2D", padding=padding, strideH=1, strideW=1, fusedActivationFunction=clipping)
    inputs = (source, made.add(constants.weight), made.add(constants.bias))
    made.emit("CONV_2D", inputs, made.make(op.output, shape, layout.plain(result, range(len(result)))), options)


def _matmul(made: Lowering, op: MatMul) -> None:
    second, result = made.shape(op.inputs[1]), made.shape(op.output)
    turned = layout.plain(second, (0, 1, 3, 2))
    seen = made.seen.get(op.inputs[1])
    adjoint = seen is not None and layout.joined(seen.dims) == layout.joined(turned)
    b = made.read(op.inputs[1], (0, 1, 3, 2) if adjoint else range(4))
    a = made.read(op.inputs[0], range(4))
    options = made.options("BatchMatMul", adjX=False, adjY=adjoint)
    made.emit("BATCH_MATMUL", (a, b), made.make(op.output, result, layout.plain(result, range(4))), options)


def _embedding(made: Lowering, op: Embedding) -> None:
    first, result = made.shape(op.inputs[0]), made.shape(op.output)
    tokens = made.seen[op.inputs[0]].tensor
    table = made.constant(op.output, op.weight.value)
    rows = made.add(made.numbers.activation(op.output, (1, first[-1], result[-1])))
    made.emit("GATHER", (table, tokens), rows, made.options("Gather", axis=0))
    made.seen[op.output] = Seen(rows, layout.plain(result, range(len(result))))


def _max_pool(made: Lowering, op: MaxPool) -> None:
    before = made.producers.get(op.inputs[0])
    never_negative = getattr(before, "bounds", FREE).low >= 0  # zeros then lose as surely as nothing does
    needs_filler = op.padding != ((0, 0), (0, 0)) and not never_negative
    filler = made.add(made.numbers.least(op.inputs[0])) if needs_filler else None
    source, padding = window(made, op, op.kernel, filler)
    _pool(made, op, "MAX_POOL_2D", source, padding)


def _avg_pool(made: Lowering, op: AvgPool) -> None:
    _pool(made, op, "AVERAGE_POOL_2D", made.read_map(op.inputs[0]), made.schema.Padding.VALID)


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
    made.emit(code, (source,), made.map(op.output), options)


def _mean(made: Lowering, op: GlobalMean) -> None:
    reduce_axes(made, op, "MEAN", (2, 3))


_RULES: Mapping[type[Operation], Callable[[Lowering, Any], None]] = {
    Conv2d: _conv,
    TransposedConv2d: _transposed_conv,
    Linear: _linear,
    MatMul: _matmul,
    Embedding: _embedding,
    MaxPool: _max_pool,
    AvgPool: _avg_pool,
    GlobalMean: _mean,
    **dict.fromkeys(get_args(Recurrent), recurrent),
    **VALUES,
    **MOVES,
}
