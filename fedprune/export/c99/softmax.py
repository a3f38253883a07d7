"""SOFTMAX and LOG_SOFTMAX over the last axis as layers: tables of exponentials."""

from collections.abc import Callable

import numpy as np

from fedprune.export.c99.exponentials import exponentials, steps_factor
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.program import SAME_ROWS, Array, At, Fields, Layer
from fedprune.export.c99.values import alike
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import FloatTensor

_MOST_CHANNELS = 4095  # whose exponentials the kernels add up in 12 bits above the point


def softmax(kernel: str, wanted: tuple[float, int]) -> Rule:
    """Return the rule of an operator whose output has the scale and zero point ``wanted``, with that kernel."""

    def rule(made: Lowering, operator: FileOperator) -> None:
        source, result = alike(made, operator)
        channels = made.maps[result].channels
        if made.tensor(operator.output).shape[-1:] != (channels,):
            raise made.wrong("is over the last of five axes")
        grid, scale, logs = made.grid(operator.output), made.grid(operator.inputs[0]).scale, kernel == "log_softmax"
        if grid != wanted:
            raise made.wrong(
                f"has an output of scale {grid.scale} and zero point {grid.zero_point}, not {_said(wanted)}"
            )
        beta = 1.0 if logs else float(made.options(operator).beta)
        try:
            values, by = exponentials(scale, beta), steps_factor(scale, beta)
        except ValueError as error:
            raise made.wrong(f"has {error}") from None
        fields: Fields = {
            "in": At(source), "out": At(result), "exponentials": Array("int32_t", values), "count": len(values),
        }  # fmt: skip
        if logs:
            made.within("number of channels", channels, _MOST_CHANNELS)
            fields = {**fields, "multiplier": by.multiplier, "left": by.shift}
        helpers = ("reciprocal",)
        made.emit(Layer(kernel, (source,), result, fields, SAME_ROWS, in_place=True, helpers=helpers))

    return rule


def softmax16(made: Lowering, operator: FileOperator) -> None:
    """Lower SOFTMAX of int16."""
    source, result = alike(made, operator, wide=True)
    channels, last = made.maps[result].channels // 2, made.tensor(operator.output).shape[-1:]
    ends = made.grid(operator.inputs[0]), made.grid(operator.output)
    if not made.wide(operator.inputs[0]) or ends[0].zero_point or ends[1] != (2.0**-15, 0) or last != (channels,):
        raise made.wrong("works on int16 with other scales than the reference kernels take, or not over the last axis")
    by = made.factor(ends[0].scale * float(made.options(operator).beta) / (10.0 / 65535.0))
    if by.shift > 14:
        raise made.wrong(f"has an input of scale {ends[0].scale}")
    fields: Fields = {
        "in": At(source), "out": At(result), "exponentials": Array("int16_t", _points(np.exp, -10, 0)),
        "inverses": Array("int16_t", _points(lambda x: 1 / (1 + x), 0, 1)), "multiplier": by.multiplier,
        "shift": by.shift,
    }  # fmt: skip
    made.emit(Layer("softmax16", (source,), result, fields, SAME_ROWS, in_place=True))


def _points(function: Callable[[FloatTensor], FloatTensor], start: float, end: float) -> list[int]:
    """A function of 16 bits at 513 points, each moved by half of what the line to the next misses in its middle."""
    step = (end - start) / 512
    at = (start + np.arange(513) * step).astype(np.float32)

    def levels(x: FloatTensor) -> FloatTensor:
        exact: FloatTensor = function(x.astype(np.float64)).astype(np.float32) * np.float32(2**15)
        return exact

    whole, middle = _rounded(levels(at)), _rounded(levels((at + np.float32(step / 2))[:-1]))
    line = _rounded((levels(at)[1:] + whole[:-1]) / 2)
    moved = np.append(whole[:-1] - _rounded((line - middle) / 2), whole[-1])
    return [int(value) for value in moved.clip(-(2**15), 2**15 - 1)]


def _rounded(values: FloatTensor) -> FloatTensor:
    away: FloatTensor = np.sign(values) * np.floor(np.abs(values) + 0.5)
    return away


def _said(grid: tuple[float, int]) -> str:
    return f"1/{round(1 / grid[0])} and {grid[1]}"
