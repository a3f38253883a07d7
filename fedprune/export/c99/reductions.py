"""Sums, means and extremes over any axes as layers."""

from collections.abc import Mapping

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.numbers import Factor, factor, scaled
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, WHOLE, At, Fields, Layer
from fedprune.export.litert import Affine
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor

_ROWS, _COLUMNS, _CHANNELS = 1, 2, 4  # over which a kernel reduces, as bits


def _view(made: Lowering, operator: FileOperator, wide: bool = False) -> tuple[int, int, int]:
    # the input and output as maps of one rank, and the axes that are reduced
    width = made.tensor(operator.inputs[0]).dtype.itemsize
    source, result = made.ends(operator, wide=wide)
    shape, options = made.tensor(operator.inputs[0]).shape, made.options(operator)
    axes = {made.axis(int(axis), len(shape)) for axis in made.constant(operator, 1, np.int32).reshape(-1)}
    kept = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    alike = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    if made.tensor(operator.output).shape != (alike if options.keepDims else kept):
        raise made.wrong(f"is over axes {sorted(axes)}, which do not give its output")
    # neighbours that are all reduced, or all kept, are one axis; what is of one value is either
    runs: list[tuple[bool, int]] = []
    for axis, size in enumerate(shape):
        if size > 1 and runs and runs[-1][0] == (axis in axes):
            runs[-1] = (axis in axes, runs[-1][1] * size)
        elif size > 1:
            runs.append((axis in axes, size))
    plain = [axis - len(shape) for axis in axes if shape[axis] > 1]
    whole = made.shape(operator.inputs[0])
    if len(shape) < 4 or (len(shape) == 4 and shape[0] == 1):
        over = [axis in plain for axis in (-3, -2, -1)]
    elif len(runs) <= 3:
        padded = [(False, 1)] * (3 - len(runs)) + runs
        over, whole = [each for each, _ in padded], (padded[0][1], padded[1][1], padded[2][1])
        made.within("run of axes", max(whole), WHOLE)
    else:
        raise made.wrong(f"is over axes {sorted(axes)} of {len(shape)}, too scattered for the C kernels")
    left = tuple(1 if gone else size for gone, size in zip(over, whole, strict=True))
    bits = sum(bit for bit, gone in zip((_ROWS, _COLUMNS, _CHANNELS), over, strict=True) if gone)
    if made.tensor(operator.output).dtype != made.tensor(operator.inputs[0]).dtype:
        raise made.wrong("has input and output of different types")
    first, last = ((height, columns, channels * width) for height, columns, channels in (whole, left))
    return made.view(source, *first), made.view(result, *last), bits


def _leading(count: int) -> int:
    return 64 - count.bit_length()


def divided(by: Factor, count: int) -> Factor:
    """Return a factor over a count, as the kernels do: it goes into the multiplier as far as its bits allow."""
    bits = min(63 - _leading(count), 32, 31 + by.shift)
    return Factor((by.multiplier << bits) // count, by.shift - bits)


def mean_of_equal(values: Tensor, count: int, before: Affine, after: Affine) -> Tensor:
    """Return MEAN's result over ``count`` positions of the same value, for each of int8 ``values``."""
    sums = count * (values.astype(np.int64) - before.zero_point)
    by = divided(factor(before.scale / after.scale), count)
    return (scaled(sums, by) + after.zero_point).clip(-128, 127)


def _sum(mean: bool) -> Rule:
    def rule(made: Lowering, operator: FileOperator) -> None:
        source, result, over = _view(made, operator, wide=mean)
        wide, (low, high) = made.wide(operator.inputs[0]), made.limits(operator.output)
        grids = (made.grid(operator.inputs[0]), made.grid(operator.output))
        count = made.maps[source].size // made.maps[result].size
        by = made.factor(grids[0].scale / grids[1].scale)
        by = divided(by, count) if mean else by
        if ((high - low) * count << max(by.shift, 0)) >= 2**31:
            raise made.wrong("has sums that could leave 32 bits")
        fields: Fields = {
            "in": At(source), "out": At(result), "multiplier": by.multiplier, "shift": by.shift,
            "bias": -grids[0].zero_point * count, "out_zero": grids[1].zero_point,
        }  # fmt: skip
        size = made.maps[source]
        if mean and not wide and made.maps[result][:3] == (1, 1, size.channels):
            made.emit(Layer("mean", (source,), result, fields, ALL_ROWS))
            return
        rows = ALL_ROWS if over & _ROWS else SAME_ROWS
        fields = {**fields, "over": over, "most": 0, "wide": int(wide)}
        made.emit(Layer("reduce", (source,), result, fields, rows))

    return rule


def _extreme(most: int) -> Rule:
    def rule(made: Lowering, operator: FileOperator) -> None:
        source, result, over = _view(made, operator)
        if made.grid(operator.inputs[0]) != made.grid(operator.output):
            raise made.wrong("has input and output of different scales")
        fields: Fields = {"in": At(source), "out": At(result), "over": over, "most": most}
        made.emit(Layer("reduce", (source,), result, fields, ALL_ROWS if over & _ROWS else SAME_ROWS))

    return rule


REDUCTIONS: Mapping[str, Rule] = {
    "MEAN": _sum(mean=True),
    "SUM": _sum(mean=False),
    "REDUCE_MAX": _extreme(1),
    "REDUCE_MIN": _extreme(-1),
}
