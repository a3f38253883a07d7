"""Layers of models with activations of 16 bits: convolutions, fully connected layers and pools."""

from collections.abc import Sequence

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.program import SAME_ROWS, Array, At, Fields, Layer, Rows, Structs
from fedprune.export.c99.wide import product, wide_filters
from fedprune.export.c99.windows import windowed
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor

_ONES = ("kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y", "dilation_x")


def conv(made: Lowering, operator: FileOperator) -> None:
    """Lower CONV_2D."""
    weight = _weight(made, operator, 4)
    if not made.has(operator, 2):
        raise made.wrong("has no biases, for which the runtime has sums of 32 bits")
    maps, channels = _channels(made, operator)
    if [made.maps[each][:2] for each in maps] == [(1, 1)] * 2 and channels == weight[0].size:
        product(made, operator)
        return
    groups, rest = divmod(channels, weight.shape[3])
    if rest or len(weight) % groups:
        raise made.wrong(f"has weights of shape {weight.shape} for {channels} channels")
    _windows(made, operator, weight.reshape(len(weight), -1), weight.shape[1:3], weight.shape[3])


def depthwise(made: Lowering, operator: FileOperator) -> None:
    """Lower DEPTHWISE_CONV_2D."""
    weight = _weight(made, operator, 4)
    _, channels = _channels(made, operator)
    if weight.shape[0] != 1 or weight.shape[3] % channels:
        raise made.wrong(f"has weights of shape {weight.shape} for {channels} channels")
    levels = np.moveaxis(weight[0], -1, 0).reshape(weight.shape[3], -1)
    _windows(made, operator, levels, weight.shape[1:3], 1)


def fully_connected(made: Lowering, operator: FileOperator) -> None:
    """Lower FULLY_CONNECTED."""
    weight = _weight(made, operator, 2)
    maps, _ = _channels(made, operator)
    filters, reads = weight.shape
    sizes = [made.maps[each].size // 2 for each in maps]
    count = sizes[0] // reads
    scales = made.tensor(operator.inputs[1]).scales
    if sizes != [count * reads, count * filters] or scales is None or len(scales) != 1:
        raise made.wrong(f"has weights of shape {weight.shape} for {sizes[0]} inputs, or scales for each filter")
    source, result = (made.view(each, 1, count, made.maps[each].size // count) for each in maps)
    _emit(made, operator, (source, result), weight, dict.fromkeys(_ONES, 1) | {"pad_y": 0, "pad_x": 0}, SAME_ROWS)


def pool(kernel: str) -> Rule:
    """Return the rule of AVERAGE_POOL_2D or MAX_POOL_2D."""

    def rule(made: Lowering, operator: FileOperator) -> None:
        options = made.options(operator)
        fields, rows = windowed(made, operator, (int(options.filterHeight), int(options.filterWidth)))
        (source, result), channels = _channels(made, operator)
        if 2 * channels != made.maps[result].channels or made.grid(operator.inputs[0]) != made.grid(operator.output):
            raise made.wrong("has input and output of different scales or channels")
        low, high = made.clipping(operator)
        most = {"most": int(kernel == "max"), "low": low, "high": high}
        made.emit(Layer("pool16", (source,), result, {"in": At(source), "out": At(result), **fields, **most}, rows))

    return rule


def _weight(made: Lowering, operator: FileOperator, axes: int) -> Tensor:
    weight = made.constant(operator, 1)
    if weight.ndim != axes or not weight.size:
        raise made.wrong(f"has weights of shape {weight.shape}")
    return weight


def _channels(made: Lowering, operator: FileOperator) -> tuple[Sequence[int], int]:
    """Return the maps of input and output, both of int16 around zero, and the channels of the first."""
    maps = made.ends(operator, wide=True)
    for index in (operator.inputs[0], operator.output):
        if not made.wide(index) or made.grid(index).zero_point:
            raise made.wrong("works on int16 and another type, or on int16 with a zero point")
    return maps, made.maps[maps[0]].channels // 2


def _windows(made: Lowering, operator: FileOperator, levels: Tensor, kernel: tuple[int, ...], reads: int) -> None:
    options = made.options(operator)
    maps, _ = _channels(made, operator)
    if made.maps[maps[1]].channels != 2 * len(levels):
        raise made.wrong(f"has {len(levels)} filters for {made.maps[maps[1]].channels // 2} channels")
    dilation = (int(options.dilationHFactor), int(options.dilationWFactor))
    fields, rows = windowed(made, operator, (kernel[0], kernel[1]), dilation)
    fields |= {f"dilation_{axis}": made.within("dilation", by, 255) for axis, by in zip("yx", dilation, strict=True)}
    _emit(made, operator, maps, levels, fields, rows, reads)


def _emit(
    made: Lowering, operator: FileOperator, maps: Sequence[int], levels: Tensor, numbers: dict[str, int], rows: Rows,
    reads: int = 0,
) -> None:  # fmt: skip
    source, result = maps
    low, high = made.clipping(operator)
    fields: Fields = {
        "in": At(source), "out": At(result), "weights": Array("int8_t", levels.reshape(-1).tolist()),
        "filters": Structs("wide_filter", wide_filters(made, operator, len(levels))),
        "group_inputs": made.within("number of weights", reads or levels.shape[1], 0xFFFF), **numbers, "low": low,
        "high": high,
    }  # fmt: skip
    made.emit(Layer("conv16", (source,), result, fields, rows, helpers=("filter16",)))
