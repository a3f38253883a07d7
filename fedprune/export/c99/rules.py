"""How each operator of a file becomes a layer: its integers as TensorFlow Lite Micro's reference kernels take them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedprune.export.c99.arithmetic import BINARY
from fedprune.export.c99.exponentials import exponentials
from fedprune.export.c99.loops import Flat, flat
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.parts import filled, put, taken
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, Array, At, Fields, Layer, Loop, Program, Structs
from fedprune.export.c99.values import alike, by_value, l2_norm, matmul, mean, quantize, rsqrt
from fedprune.export.c99.wide import curve, joined, on_int16, product
from fedprune.export.c99.windows import conv, depthwise, fully_connected, pool
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.export.litert.reader import ModelError, operator_name, read
from fedprune.export.tflm.unpack import unpacked
from fedprune.types import Tensor

# More than any microcontroller holds, or is planned for here in seconds.
_MOST_OPERATORS = 1_000
_MOST_ROWS = 2**17


def _reshape(made: Lowering, operator: FileOperator) -> None:
    if not made.has(operator, 0):
        raise made.wrong("has no input")
    source = made.map(operator.inputs[0])
    if made.grid(operator.inputs[0]) != made.grid(operator.output):
        raise made.wrong("has input and output of different scales")
    result = made.map(operator.output, source)
    if made.maps[result].size != made.maps[source].size:
        raise made.wrong("changes the number of values")


def _place(made: Lowering, operator: FileOperator, inputs: int, parts: list[dict[str, Any]], fill: int | None) -> None:
    sources, result = [part["in"].map for part in parts], made.map(operator.output)
    for part in parts:
        for name in ("step_y", "step_x", "step_c"):
            made.within("step", part[name], 255)
    fields: Fields = {
        "out": At(result), "parts": Structs("part", parts), "count": len(parts), "fills": int(fill is not None),
        "fill": fill or 0,
    }  # fmt: skip
    plain = inputs > 1 and all(part["to_y"] == 0 and part["height"] == made.maps[result].height for part in parts)
    made.emit(Layer("place", tuple(dict.fromkeys(sources)), result, fields, SAME_ROWS if plain else ALL_ROWS))


def _part(source: int, size: tuple[int, int, int], start: Any, to: Any, step: Any = (1, 1, 1)) -> dict[str, Any]:
    names = ("y", "x", "c")
    part: dict[str, Any] = {"in": At(source), "height": size[0], "width": size[1], "channels": size[2]}
    for prefix, values in (("from", start), ("to", to), ("step", step)):
        part |= {f"{prefix}_{name}": int(value) for name, value in zip(names, values, strict=True)}
    return part


def _three(made: Lowering, index: int, values: Tensor, rest: int) -> tuple[int, ...]:
    # of an operator's numbers, one an axis, those of height, width and channels
    rank = len(made.tensor(index).shape)
    if len(values) != rank:
        raise made.wrong(f"has {len(values)} numbers for {rank} axes")
    inner = [int(value) for value in (values[1:] if rank > 1 else values)]
    return (*[rest] * (3 - len(inner)), *inner)


def _pad(made: Lowering, operator: FileOperator) -> None:
    source, result = made.ends(operator)
    sides = made.constant(operator, 1, np.int32).reshape(-1)
    before, after = (_three(made, operator.inputs[0], sides[at::2], 0) for at in range(2))
    fill = (
        int(made.constant(operator, 2).reshape(-1)[0])
        if made.has(operator, 2)
        else made.grid(operator.output).zero_point
    )
    size, whole = made.maps[source][:3], made.maps[result][:3]
    ends = zip(before, size, after, whole, strict=True)
    if any(first < 0 or last < 0 or first + inner + last != outer for first, inner, last, outer in ends):
        raise made.wrong("crops, or leaves its output")
    _place(made, operator, 1, [_part(source, size, (0, 0, 0), before)], fill)


def _concat(made: Lowering, operator: FileOperator) -> None:
    axis, rank = int(made.options(operator).axis), len(made.tensor(operator.output).shape)
    along = made.axis(axis, rank) + (3 - rank)  # of height, width, channels
    if not 0 <= along < 3 or min(operator.inputs, default=-1) < 0 or len(operator.inputs) > 255:
        raise made.wrong("joins batches, scalars, nothing or more than 255 maps")
    if any(made.grid(index) != made.grid(operator.output) for index in operator.inputs):
        raise made.wrong("joins maps of different scales")
    parts, at = [], [0, 0, 0]
    for index in operator.inputs:
        source = made.map(index)
        size = made.maps[source][:3]
        parts.append(_part(source, size, (0, 0, 0), at))
        at[along] += size[along]
    shapes = [made.maps[number][:3] for number in (*(part["in"].map for part in parts), made.map(operator.output))]
    beside = {(*shape[:along], *shape[along + 1 :]) for shape in shapes}
    if at[along] != shapes[-1][along] or len(beside) != 1:
        raise made.wrong("joins maps that do not fit together")
    _place(made, operator, len(parts), parts, None)


def _slice(made: Lowering, operator: FileOperator) -> None:
    source, result = made.ends(operator)
    options = made.options(operator)
    if options.beginMask or options.endMask or options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask:
        raise made.wrong("has masks, which C kernels do not cover")
    start, stop, step = (
        _three(made, operator.inputs[0], made.constant(operator, at, np.int32).reshape(-1), rest)
        for at, rest in ((1, 0), (2, 1), (3, 1))
    )
    whole, size = made.maps[source][:3], made.maps[result][:3]
    if min(step) < 1 or any(
        len(range(inner)[first:last:by]) != count
        for inner, first, last, by, count in zip(whole, start, stop, step, size, strict=True)
    ):
        raise made.wrong("goes backwards, or does not give its output")
    start = tuple(at % inner if at < 0 else at for at, inner in zip(start, whole, strict=True))
    _place(made, operator, 1, [_part(source, size, start, (0, 0, 0), step)], None)


def _softmax(made: Lowering, operator: FileOperator) -> None:
    source, result = alike(made, operator)
    grid = made.grid(operator.output)
    if grid != (1 / 256, -128):
        raise made.wrong(f"has an output of scale {grid.scale} and zero point {grid.zero_point}, not 1/256 and -128")
    try:
        values = exponentials(made.grid(operator.inputs[0]).scale, float(made.options(operator).beta))
    except ValueError as error:
        raise made.wrong(f"has {error}") from None
    fields: Fields = {
        "in": At(source),
        "out": At(result),
        "exponentials": Array("int32_t", values),
        "count": len(values),
    }
    made.emit(Layer("softmax", (source,), result, fields, SAME_ROWS, in_place=True, helpers=("reciprocal",)))


_BY_VALUE = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "ABS", "NEG",
    "SQRT", "EXP", "LOG", "ELU", "GELU",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": pool("max_pool"),
    "AVERAGE_POOL_2D": pool("avg_pool"),
    "MEAN": mean,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "SOFTMAX": _softmax,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": _concat,
    "STRIDED_SLICE": _slice,
    "QUANTIZE": quantize,
    "RSQRT": rsqrt,
    "L2_NORMALIZATION": l2_norm,
    "BATCH_MATMUL": matmul,
    **dict.fromkeys(_BY_VALUE, by_value),
    **BINARY,
    "SLICE": taken,
    "DYNAMIC_UPDATE_SLICE": put,
    "FILL": filled,
}
RULES = RULES | {
    name: on_int16(RULES[name], rule)
    for name, rule in (("CONV_2D", product), ("LOGISTIC", curve), ("TANH", curve), ("CONCATENATION", joined))
}


def lower(model: bytes) -> Program:
    """Return the layers of an int8 model, its weights still to be encoded.

    Raises ``ModelError`` for a file that is not sound, holds floats, has more than one input or output or batch, or an
    operator that is not covered, which is named.
    """
    return _lower(flat(unpacked(read(model))), RULES)


def _lower(whole: Flat, rules: Mapping[str, Rule]) -> Program:
    file = whole.file
    made = Lowering(file, whole.counters)
    for what, ends in (("input", file.inputs), ("output", file.outputs)):
        if len(ends) != 1:
            raise ModelError(f"the model has {len(ends)} {what}s; C sources are for models of one {what}")
    if len(file.operators) > _MOST_OPERATORS:
        raise ModelError(f"the model has {len(file.operators)} operators; at most {_MOST_OPERATORS} will do")
    source = made.map(file.inputs[0])
    turns = {at: each.turns for each in whole.repeats for at in range(each.first, each.last + 1)}
    starts = []  # the first layer of each operator
    for position, operator in enumerate(file.operators):
        starts.append(len(made.layers))
        made.turns = turns.get(position, 1)
        name = operator_name(operator)
        if name not in rules:
            shown = name if name.isidentifier() else repr(name[:60])  # on one line, whatever a custom one is called
            raise ModelError(
                f"operator {position} is {shown}, which has no C kernel; there are {', '.join(sorted(rules))}"
            )
        made.where = f"operator {position}, {name},"
        rules[name](made, operator)
    result = made.map(file.outputs[0])
    if not made.layers:
        raise ModelError("the model computes nothing: its output is its input")
    if (rows := sum(made.maps[layer.output].height for layer in made.layers)) > _MOST_ROWS:
        raise ModelError(f"the model's maps have {rows} rows in all; at most {_MOST_ROWS} will do")
    grids = made.grid(file.inputs[0]), made.grid(file.outputs[0])
    starts.append(len(made.layers))
    loops = [Loop(starts[each.first], starts[each.last + 1] - 1, each.turns) for each in whole.repeats]
    return Program(made.maps, made.layers, source, result, *grids, [each for each in loops if each.first <= each.last])
