"""TRANSPOSE_CONV as layers: a convolution that makes the values of a block as channels, then these moved apart."""

import math

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.moves import emit_move
from fedprune.export.c99.program import WHOLE, At, Fields, Filters, Layer, Rows
from fedprune.export.c99.windows import filters
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor


def transposed(made: Lowering, operator: FileOperator) -> None:
    """Lower a TRANSPOSE_CONV with strides (s, t): s x t filters for each of its own, whose other weights are zero.

    Row ``s j + r`` of the output sums weights k times row ``j + (r + pad - k) / s`` of the input, where that is whole:
    for each r a convolution of its own. Zeros cost little in the codes of weights.
    """
    weight = made.constant(operator, 1)
    if not made.has(operator, 2):
        raise made.wrong("has no input")
    source, result = made.map(operator.inputs[2]), made.map(operator.output)
    before, after, options = made.maps[source], made.maps[result], made.options(operator)
    shapes = [made.tensor(index).shape for index in (operator.inputs[2], operator.output)]
    if any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
        raise made.wrong("works on batches, or on other than four axes")
    if weight.ndim != 4 or weight.shape[::3] != (after.channels, before.channels):
        raise made.wrong(f"has weights of shape {weight.shape} for {before.channels} and {after.channels} channels")
    stride = (int(options.strideH), int(options.strideW))
    made.within("stride", max(stride), 255)
    if min(stride) < 1:
        raise made.wrong("has a stride of zero")
    ends = zip(before[:2], after[:2], weight.shape[1:3], stride, strict=True)
    taps = [_taps(made, *each, same=options.padding == 0) for each in ends]
    levels = _levels(weight, taps, stride)
    blocks = [-(-size // by) for size, by in zip(after[:2], stride, strict=True)]
    moves = (*blocks, math.prod(stride) * after.channels) != after[:3]
    between = made.between(blocks[0], blocks[1], math.prod(stride) * after.channels) if moves else result
    _convolved(made, operator, source, between, levels, [pad for _, pad in taps], math.prod(stride))
    if moves:
        emit_blocks(made, between, result, stride)


def emit_blocks(made: Lowering, source: int, result: int, block: tuple[int, int]) -> None:
    """Emit the layers that move the channels of a map into blocks of positions, and cut what is too much of them."""
    before, after = made.maps[source], made.maps[result]
    places = np.arange(before.size, dtype=np.int32).reshape(before.height, before.width, *block, after.channels)
    height, width = before.height * block[0], before.width * block[1]
    places = places.transpose(0, 2, 1, 3, 4).reshape(height, width, after.channels)
    whole = result if places.shape == after[:3] else made.between(height, width, after.channels)
    emit_move(made, source, whole, places)
    if whole != result:
        kept = np.arange(places.size, dtype=np.int32).reshape(places.shape)[: after.height, : after.width]
        emit_move(made, whole, result, kept)


def _taps(
    made: Lowering, size: int, wanted: int, kernel: int, stride: int, *, same: bool
) -> tuple[list[tuple[int, int, int]], int]:
    # (place in the block, row of the weights, row of the window), and the rows of the window before the position
    made.within("kernel", kernel, 255)
    pad = max((size - 1) * stride + kernel - wanted, 0) // 2 if same else 0
    found = [
        (at, k, (at + pad - k) // stride) for at in range(stride) for k in range(kernel) if not (at + pad - k) % stride
    ]
    first = min(0, *(offset for *_, offset in found))
    return [(at, k, offset - first) for at, k, offset in found], -first


def _levels(weight: Tensor, taps: list[tuple[list[tuple[int, int, int]], int]], stride: tuple[int, int]) -> Tensor:
    sizes = [1 + max(pad, *(at for *_, at in found)) for found, pad in taps]
    levels = np.zeros((*stride, len(weight), *sizes, weight.shape[3]), np.int8)
    for y, row, window_y in taps[0][0]:
        for x, column, window_x in taps[1][0]:
            levels[y, x, :, window_y, window_x] = weight[:, row, column]
    return levels.reshape(-1, *levels.shape[3:])


def _convolved(
    made: Lowering, operator: FileOperator, source: int, result: int, levels: Tensor, pads: list[int], repeats: int
) -> None:
    count, height, width, channels = levels.shape
    flat = levels.reshape(count, -1)
    arrays, numbers = filters(made, operator, flat, places=(2, 3), repeats=repeats)
    made.within("window", max(height, width), min(255, WHOLE))
    window = dict.fromkeys(("groups", "stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
    fields: Fields = {
        "in": At(source), "out": At(result), **arrays, "group_inputs": channels, **window, "kernel_height": height,
        "kernel_width": width, "pad_y": made.within("padding", pads[0], 255),
        "pad_x": made.within("padding", pads[1], 255), "in_zero": made.grid(operator.inputs[2]).zero_point, **numbers,
    }  # fmt: skip
    scratch = 16 * (flat.shape[1] + 1) + channels
    rows = Rows(1, -pads[0], height - 1 - pads[0])
    made.emit(Layer("conv", (source,), result, fields, rows, scratch, Filters(flat), helpers=("tile",)))
