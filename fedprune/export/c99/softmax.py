"""SOFTMAX and LOG_SOFTMAX over the last axis as layers: tables of exponentials."""

from fedprune.export.c99.exponentials import exponentials, steps_factor
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.program import SAME_ROWS, Array, At, Fields, Layer
from fedprune.export.c99.values import alike
from fedprune.export.litert.flatbuffer import FileOperator

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


def _said(grid: tuple[float, int]) -> str:
    return f"1/{round(1 / grid[0])} and {grid[1]}"
