"""Operators on int16 alone as layers: products with weights, sigmoid and tanh, rectifiers."""

from functools import cache
from math import floor, log2
from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.numbers import Factor
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, Array, At, Fields, Filters, Fixed, Layer, Name, Structs
from fedprune.export.c99.values import alike
from fedprune.export.litert import reference
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_ONE = 2.0**-15
"""The only scale that sigmoids and tanhs of int16 have."""
_POINTS = 255


def on_int16(narrow: Rule, wide: Rule) -> Rule:
    """Return the rule that is ``wide`` for operators whose output is int16, ``narrow`` for others."""
    return lambda made, operator: (wide if made.tensor(operator.output).dtype == np.int16 else narrow)(made, operator)


def product(made: Lowering, operator: FileOperator) -> None:
    """Lower CONV_2D of one position."""
    source, result = made.ends(operator, wide=True)
    weight = made.constant(operator, 1)
    ends = made.maps[source], made.maps[result]
    if weight.ndim != 4 or [*ends[0][:3], *ends[1][:3]] != [1, 1, 2 * weight[0].size, 1, 1, 2 * len(weight)]:
        raise made.wrong(f"has weights of shape {weight.shape}; on int16 a single position is covered")
    if made.tensor(operator.inputs[0]).dtype != np.int16:
        raise made.wrong("makes int16 of another type")
    levels = weight.reshape(len(weight), -1)
    low, high = made.clipping(operator)
    fields: Fields = {
        "in": At(source), "out": At(result), "low": low, "high": high,
        "filters": Structs("wide_filter", wide_filters(made, operator, len(levels))),
    }  # fmt: skip
    made.emit(Layer("wide", (source,), result, fields, ALL_ROWS, 0, Filters(levels), helpers=("filter16",)))


def wide_filters(made: Lowering, operator: FileOperator, count: int) -> list[dict[str, Any]]:
    """Return the bias and the factor of each of ``count`` filters of an operator with weights, on int16."""
    weight = made.tensor(operator.inputs[1])
    if weight.scales is None or len(weight.scales) not in (1, count) or weight.zero_point != 0:
        raise made.wrong("has weights without a scale for each filter and zero points of 0")
    source, result = made.grid(operator.inputs[0]).scale, made.grid(operator.output).scale
    scales = np.resize(np.asarray(weight.scales, np.float64), count)
    return [
        _filter(made, int(bias), source * float(scale) / result)
        for bias, scale in zip(_biases(made, operator, count), scales, strict=True)
    ]


def _biases(made: Lowering, operator: FileOperator, count: int) -> Tensor:
    if not made.has(operator, 2):
        return np.zeros(count, np.int64)
    bias = made.constant(operator, 2, np.int64).reshape(-1)
    if len(bias) != count or np.abs(bias.astype(np.float64)).max(initial=0) >= 2**31:
        raise made.wrong("has biases that leave 32 bits, or are no biases of its filters")
    return bias


def _filter(made: Lowering, bias: int, scale: float) -> dict[str, Any]:
    by = made.factor(scale)
    if by.shift > 7:
        raise made.wrong("has scales that are too large for that of its result")
    # the kernels take 16 bits of the factor where sums have 64
    multiplier = min((by.multiplier + (1 << 15)) >> 16, 0x7FFF)
    return {"bias": bias, "multiplier": multiplier, "right": 15 - by.shift}


def curve(made: Lowering, operator: FileOperator) -> None:
    """Lower LOGISTIC and TANH."""
    source, result = alike(made, operator, wide=True)
    grids = made.grid(operator.inputs[0]), made.grid(operator.output)
    if made.tensor(operator.inputs[0]).dtype != np.int16 or grids[0].zero_point != 0 or grids[1] != (_ONE, 0):
        raise made.wrong("works on int16 with other scales than the reference kernels take")
    multiplier, right = _units(grids[0].scale)
    if not 0 < multiplier < 2**15:
        raise made.wrong(f"has an input of scale {grids[0].scale}")
    fields: Fields = {
        "in": At(source), "out": At(result), "points": Array("uint16_t", points()), "multiplier": multiplier,
        "right": right, "bits": 8 if operator_name(operator) == "TANH" else 9,
    }  # fmt: skip
    made.emit(Layer("curve", (source,), result, fields, SAME_ROWS, in_place=True, helpers=("curved",)))


def _units(scale: float) -> tuple[int, int]:
    """(multiplier, shift to the right) from steps of a scale to units of 1 / 12288."""
    power = round(log2(scale))
    if 2.0**power == scale and power in (-12, -11):
        return 3 << (power + 12), 0
    real, right = float(np.float32(scale)) * 4096 * 3, 0
    while real <= 32767 / 2 and right <= 30:
        real, right = 2 * real, right + 1
    return int(real), right


@cache
def points() -> tuple[int, ...]:
    """Return the points of the reference kernels' sigmoid, 2^16 times, by running them: no plain rule rounds so."""
    kinds = FileTensor((1, 1, 1, _POINTS + 1), np.dtype(np.int16), None, np.array([1 / 6144], np.float32))
    ends = [kinds, FileTensor(kinds.shape, kinds.dtype, None, np.array([_ONE], np.float32))]
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    alone = File(ends, [FileOperator(BuiltinOperator.TANH, 3, (0,), 1, None, 0)], (0,), (1,))
    # a tanh is 2 s(2 x) - 1: at the points themselves it shows them whole, and just before the last one that
    steps = np.array([*range(0, 128 * _POINTS, 128), 128 * _POINTS - 1], np.int16)
    shown = reference(pack(alone), steps[None])[0]
    return tuple(int(value) + 2**15 for value in shown)


def relu(made: Lowering, operator: FileOperator) -> None:
    """Lower RELU, which takes what it keeps to the scale of its output."""
    maps, source, result = _rectified(made, operator)
    _clipped(made, maps, made.factor(source / result), made.limits(operator.output)[1])


def relu6(made: Lowering, operator: FileOperator) -> None:
    """Lower RELU6, which gives what it keeps as it is, whatever the scale of its output."""
    maps, source, _ = _rectified(made, operator)
    six = floor(np.float32(6) / np.float32(source) + 0.5)  # in single precision, as the runtime divides
    _clipped(made, maps, Factor(1 << 30, 1), min(six, made.limits(operator.output)[1]))


def leaky_relu(made: Lowering, operator: FileOperator) -> None:
    """Lower LEAKY_RELU: PRELU with one slope, which is all in the factor."""
    maps, source, result = _rectified(made, operator)
    slope = float(made.options(operator).alpha)
    if not slope >= 0:
        raise made.wrong(f"has a slope of {slope:g}, whose products with int16 the kernels round otherwise")
    kept, leaked = (made.factor(source * by / result) for by in (1.0, slope))
    low, high = made.limits(operator.output)
    fields: Fields = {
        "a": At(maps[0]), "b": Fixed((1, 1, 1), "int16_t", [1]), "out": At(maps[1]), "operation": Name("leak_of"),
        "a_multiplier": kept.multiplier, "a_shift": kept.shift, "multiplier": leaked.multiplier,
        "shift": leaked.shift, "low": low, "high": high, "wide": 1,
    }  # fmt: skip
    made.emit(Layer("combine", maps[:1], maps[1], fields, SAME_ROWS, in_place=True, helpers=("leak_of",)))


def unknown(made: Lowering, operator: FileOperator) -> None:
    """Refuse an operator that no runtime has for int16."""
    raise made.wrong("works on int16, for which TensorFlow Lite Micro has no kernel")


def _rectified(made: Lowering, operator: FileOperator) -> tuple[tuple[int, ...], float, float]:
    # the maps of its input and output, and their scales
    maps = alike(made, operator, wide=True)
    grids = made.grid(operator.inputs[0]), made.grid(operator.output)
    if made.tensor(operator.inputs[0]).dtype != np.int16 or any(grid.zero_point for grid in grids):
        raise made.wrong("works on int16 and another type, or on int16 with a zero point")
    return maps, grids[0].scale, grids[1].scale


def _clipped(made: Lowering, maps: tuple[int, ...], by: Factor, high: int) -> None:
    fields: Fields = {
        "in": At(maps[0]), "out": At(maps[1]), "multiplier": by.multiplier, "shift": by.shift, "low": 0, "high": high,
        "in_wide": 1, "out_wide": 1,
    }  # fmt: skip
    made.emit(Layer("rescale", maps[:1], maps[1], fields, SAME_ROWS, in_place=True))
