"""Operators with windows or weights as layers: convolutions, fully connected layers and pools."""

from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.numbers import Factor, scaled
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, WHOLE, Array, At, Fields, Filters, Layer, Rows, Structs
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor


def _padding(made: Lowering, options: Any, size: int, result: int, kernel: int, stride: int, dilation: int = 1) -> int:
    # cells before the map: SAME splits what is missing, VALID has none
    reach = made.within("window", dilation * (kernel - 1) + 1, WHOLE // 2)
    same = options.padding == 0
    if result != -(-(size if same else size - reach + 1) // stride):
        raise made.wrong(f"makes {result} rows or columns of {size}, which its window does not")
    return made.within("padding", max((result - 1) * stride + reach - size, 0) // 2 if same else 0, 255)


def _ends(made: Lowering, operator: FileOperator, *, wide: bool = False) -> tuple[int, ...]:
    # the maps of its input and output; of an input that is padded, that without its padding
    if made.has(operator, 0) and (padded := made.padded.get(operator.inputs[0])):
        return made.map(padded.source), made.map(operator.output)
    return made.ends(operator, wide=wide)


def windowed(
    made: Lowering, operator: FileOperator, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> tuple[dict[str, int], Rows]:
    """Return the fields of a kernel's window, and the rows that it reads, whatever the type of the maps."""
    options = made.options(operator)
    result = made.maps[_ends(made, operator, wide=True)[1]]
    shapes = [made.tensor(index).shape for index in (operator.inputs[0], operator.output)]
    if any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
        raise made.wrong(f"works on shapes {shapes}; four axes and a batch of one will do")
    stride = (int(options.strideH), int(options.strideW))
    if min(*stride, *dilation, *kernel) < 1:
        raise made.wrong("has a stride, dilation or kernel of zero")
    pads = [
        _padding(made, options, *each)
        for each in zip(shapes[0][1:3], (result.height, result.width), kernel, stride, dilation, strict=True)
    ]
    if padded := made.padded.get(operator.inputs[0]):
        pads = [made.within("padding", pad, 255) for pad in padded[1:]]
    for what, values in (("stride", stride), ("kernel", kernel)):
        made.within(what, max(values), 255)
    fields = {
        "kernel_height": kernel[0], "kernel_width": kernel[1], "stride_y": stride[0], "stride_x": stride[1],
        "pad_y": pads[0], "pad_x": pads[1],
    }  # fmt: skip
    reach = dilation[0] * (kernel[0] - 1) + 1
    return fields, Rows(stride[0], -pads[0], reach - stride[0] - pads[0])


def filters(
    made: Lowering,
    operator: FileOperator,
    levels: Tensor,
    *,
    places: tuple[int, int] = (0, 2),
    repeats: int = 1,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Fields of the bias and factor of each filter, (filters, weights).

    ``places`` are those of input and bias among the operator's inputs; its own filters are there ``repeats`` times.
    """
    source, result = made.grid(operator.inputs[places[0]]), made.grid(operator.output)
    weight = made.tensor(operator.inputs[1])
    own = len(levels) // repeats
    if weight.scales is None or len(weight.scales) not in (1, own) or weight.zero_point != 0:
        raise made.wrong("has weights without a scale for each filter and zero points of 0")
    # the kernels' own order of operations, in double precision
    scales = source.scale * np.resize(np.asarray(weight.scales, np.float64), len(levels)) / result.scale
    bias = np.zeros(own, np.int32)
    if made.has(operator, places[1]):
        bias = made.constant(operator, places[1], np.int32).reshape(-1)
    if len(bias) != own:
        raise made.wrong(f"has {len(bias)} biases for {own} filters")
    bias = np.tile(bias, repeats)
    sums = levels.astype(np.int64).sum(1)
    biases = bias.astype(np.int64) - source.zero_point * sums
    factors = [made.factor(float(scale)) for scale in scales]
    for at in np.flatnonzero(~levels.any(axis=1)):
        # a filter without weights gives a constant: said in small numbers, whatever its scale was
        biases[at] = scaled(biases[at], factors[at]).clip(-256, 255) * 1024
        factors[at] = Factor(1 << 30, -9)  # 1024 / 2 / 2^9 is 1
    halves = [1 << max(-each.shift - 1, 0) for each in factors]  # which rounding adds
    if (np.abs(biases) + 128 * np.abs(levels.astype(np.int64)).sum(1) + halves).max(initial=0) >= 2**31:
        raise made.wrong("has sums that could leave 32 bits")
    filters = [
        {"bias": int(bias), "multiplier": each.multiplier, "right": -each.shift}
        for bias, each in zip(biases, factors, strict=True)
    ]
    arrays = {"filters": Structs("filter", filters)}
    low, high = made.clipping(operator)
    return arrays, {"out_zero": result.zero_point, "low": low, "high": high}


def conv(made: Lowering, operator: FileOperator) -> None:
    weight = made.constant(operator, 1)
    source, result = _ends(made, operator)
    options = made.options(operator)
    if weight.ndim != 4 or made.maps[source].channels % weight.shape[3] or len(weight) != made.maps[result].channels:
        raise made.wrong(f"has weights of shape {weight.shape} for {made.maps[source].channels} channels")
    levels = weight.reshape(len(weight), -1)
    groups = made.maps[source].channels // weight.shape[3]
    if len(weight) % groups:
        raise made.wrong(f"has {len(weight)} filters in {groups} groups")
    dilation = (int(options.dilationHFactor), int(options.dilationWFactor))
    window, rows = windowed(made, operator, weight.shape[1:3], dilation)
    window |= {"dilation_y": made.within("dilation", dilation[0], 255)}
    window |= {"dilation_x": made.within("dilation", dilation[1], 255)}
    if made.maps[source][:2] == made.maps[result][:2] == (1, 1) and weight.shape[1:3] == (1, 1) and groups == 1:
        _vector(made, operator, levels)
        return
    arrays, numbers = filters(made, operator, levels)
    fields: Fields = {
        "in": At(source), "out": At(result), **arrays, "group_inputs": weight.shape[3],
        "groups": made.within("number of groups", groups, 255), **window,
        "in_zero": made.grid(operator.inputs[0]).zero_point, **numbers,
    }  # fmt: skip
    scratch = 16 * (levels.shape[1] + 1) + weight.shape[3]
    made.emit(Layer("conv", (source,), result, fields, rows, scratch, Filters(levels), helpers=("tile",)))


def _vector(made: Lowering, operator: FileOperator, levels: Tensor) -> None:
    """One position: a tile's kernel does as well, where it is there anyway and its columns take no more memory."""
    source, result = made.ends(operator)
    if levels.shape[1] > min(made.columns, 0xFFFF):
        arrays, numbers = filters(made, operator, levels)
        plain: Fields = {"in": At(source), "out": At(result), **arrays, **numbers}
        made.emit(Layer("linear", (source,), result, plain, ALL_ROWS, 0, Filters(levels)))
        return
    _positions(made, operator, levels, made.vector(source), made.vector(result), ALL_ROWS)


def _positions(
    made: Lowering, operator: FileOperator, levels: Tensor, source: int, result: int, rows: Rows = SAME_ROWS
) -> None:
    """A matrix times the channels of each position, as a convolution."""
    arrays, numbers = filters(made, operator, levels)
    ones = ("groups", "kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y", "dilation_x")
    reads = made.within("number of weights of a filter", levels.shape[1], 0xFFFF)
    fields: Fields = {
        "in": At(source), "out": At(result), **arrays, "group_inputs": reads, **dict.fromkeys(ones, 1),
        "in_zero": made.grid(operator.inputs[0]).zero_point, **numbers,
    }  # fmt: skip
    scratch = 16 * (levels.shape[1] + 1) + levels.shape[1]
    made.emit(Layer("conv", (source,), result, fields, rows, scratch, Filters(levels), helpers=("tile",)))


def fully_connected(made: Lowering, operator: FileOperator) -> None:
    levels = made.constant(operator, 1)
    source, result = made.ends(operator)
    count, rest = divmod(made.maps[source].size, levels.shape[-1])
    if levels.ndim != 2 or rest or made.maps[result].size != count * len(levels):
        raise made.wrong(f"has weights of shape {levels.shape} for {made.maps[source].size} inputs")
    if count == 1:
        if made.maps[result].channels != len(levels):
            raise made.wrong(f"has {len(levels)} filters for {made.maps[result].channels} outputs")
        _vector(made, operator, levels)
        return
    if made.maps[source][:2] != made.maps[result][:2] or made.maps[source].channels != levels.shape[1]:
        source, result = (made.view(each, 1, count, made.maps[each].size // count) for each in (source, result))
    _positions(made, operator, levels, source, result)


def depthwise(made: Lowering, operator: FileOperator) -> None:
    weight = made.constant(operator, 1)
    source, result = _ends(made, operator)
    options = made.options(operator)
    if weight.ndim != 4 or weight.shape[0] != 1 or weight.shape[3] != made.maps[result].channels:
        raise made.wrong(f"has weights of shape {weight.shape} for {made.maps[result].channels} channels")
    channels = made.maps[source].channels
    levels = np.moveaxis(weight[0], -1, 0).reshape(weight.shape[3], -1)  # (channels, taps)
    dilation = (int(options.dilationHFactor), int(options.dilationWFactor))
    window, rows = windowed(made, operator, weight.shape[1:3], dilation)
    window |= {"dilation_y": made.within("dilation", dilation[0], 255)}
    window |= {"dilation_x": made.within("dilation", dilation[1], 255)}
    zero = made.grid(operator.inputs[0]).zero_point
    common: Fields = {"in": At(source), "out": At(result), **window, "in_zero": zero}
    if channels == len(levels):
        arrays, numbers = filters(made, operator, levels)
        weights = Array("int32_t", _fours(levels).tolist())
        scratch = _POINTER * _cells(levels.shape[1]) + channels + 3  # four channels are read at once
        made.emit(
            Layer("depthwise", (source,), result, {**common, "weights": weights, **arrays, **numbers}, rows, scratch)
        )
        return
    if len(levels) % channels:
        raise made.wrong(f"has {len(levels)} filters for {channels} channels")
    arrays, numbers = filters(made, operator, levels)  # several filters a channel: groups of one channel
    fields: Fields = {
        **common,
        **arrays,
        **numbers,
        "group_inputs": 1,
        "groups": made.within("number of groups", channels, 255),
    }
    scratch = 16 * (levels.shape[1] + 1) + 1
    made.emit(Layer("conv", (source,), result, fields, rows, scratch, Filters(levels), helpers=("tile",)))


_POINTER = 8  # bytes, on the widest machine


def _cells(taps: int) -> int:
    # one, and two each time after it
    return max(taps | 1, 3)


def _fours(levels: Tensor) -> Tensor:
    # of four channels the word (c0 t0, c1 t0, c2 t0, c3 t0), then of each two taps more
    # (c0 t1, c1 t1, c0 t2, c1 t2) and (c2 t1, c3 t1, c2 t2, c3 t2)
    channels, taps = levels.shape
    whole = np.zeros((-(-channels // 4) * 4, _cells(taps)), np.int8)
    whole[:channels, :taps] = levels
    first, others = whole[:, :1].reshape(-1, 4), whole[:, 1:].reshape(len(whole) // 4, 2, 2, -1, 2)
    ordered = np.concatenate([first, others.transpose(0, 3, 1, 4, 2).reshape(len(first), -1)], 1)
    return np.frombuffer(ordered.tobytes(), "<i4")


def pool(kernel: str) -> Rule:
    """Return the rule of a pooling operator with the kernel of that name."""

    def rule(made: Lowering, operator: FileOperator) -> None:
        options = made.options(operator)
        window, rows = windowed(made, operator, (int(options.filterHeight), int(options.filterWidth)))
        source, result = made.ends(operator)
        alike = made.maps[source].channels == made.maps[result].channels
        if not alike or made.grid(operator.inputs[0]) != made.grid(operator.output):
            raise made.wrong("has input and output of different scales or channels")
        low, high = made.clipping(operator)
        fields: Fields = {"in": At(source), "out": At(result), **window, "low": low, "high": high}
        made.emit(Layer(kernel, (source,), result, fields, rows))

    return rule
