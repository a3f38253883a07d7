"""How each operator of a file becomes a layer: its integers as TensorFlow Lite Micro's reference kernels take them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedprune.export.c99.elementwise import table
from fedprune.export.c99.exponentials import exponentials
from fedprune.export.c99.folding import folds
from fedprune.export.c99.gathering import gather
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.moves import MOVES
from fedprune.export.c99.placing import PLACES
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, Array, At, Fields, Layer, Program
from fedprune.export.c99.reductions import REDUCTIONS
from fedprune.export.c99.resizing import RESIZES
from fedprune.export.c99.transposed import transposed
from fedprune.export.c99.windows import conv, depthwise, fully_connected, pool
from fedprune.export.litert.flatbuffer import File, FileOperator
from fedprune.export.litert.reader import ModelError, operator_name, read
from fedprune.export.tflm.unpack import unpacked

# More than any microcontroller holds, or is planned for here in seconds.
_MOST_OPERATORS = 1_000
_MOST_ROWS = 2**17


def _add(made: Lowering, operator: FileOperator) -> None:
    *sources, result = made.ends(operator, 2)
    if any(made.maps[source][:3] != made.maps[result][:3] for source in sources):
        raise made.wrong("adds maps of different shapes")
    grids = [made.grid(index) for index in (*operator.inputs[:2], operator.output)]
    twice = 2 * max(np.float32(grids[0].scale), np.float32(grids[1].scale)).astype(np.float64)
    factors = [made.factor(grid.scale / twice) for grid in grids[:2]]
    factors.append(made.factor(twice / ((1 << 20) * grids[2].scale)))
    low, high = made.clipping(operator)
    fields: dict[str, Any] = {"a": At(sources[0]), "b": At(sources[1]), "out": At(result), "low": low, "high": high}
    for name, each, grid in zip(("a", "b", "out"), factors, grids, strict=True):
        fields |= {f"{name}_multiplier": each.multiplier, f"{name}_right": -each.shift, f"{name}_zero": grid.zero_point}
    if fields["out_right"] < 1:
        raise made.wrong("adds maps whose scales are 2^18 times that of their sum")
    made.emit(Layer("add", (sources[0], sources[1]), result, fields, SAME_ROWS, in_place=True))


def _multiply(made: Lowering, operator: FileOperator) -> None:
    *sources, result = made.ends(operator, 2)
    inputs = [*operator.inputs[:2]]
    if made.maps[sources[0]][:3] != made.maps[result][:3]:
        sources, inputs = sources[::-1], inputs[::-1]
    first, second, whole = (made.maps[each][:3] for each in (*sources, result))
    if first != whole or second not in (whole, (1, 1, whole[2])):
        raise made.wrong(f"multiplies maps of shapes {first} and {second}")
    grids = [made.grid(index) for index in (*inputs, operator.output)]
    by = made.factor(grids[0].scale * grids[1].scale / grids[2].scale)
    low, high = made.clipping(operator)
    fields: Fields = {
        "a": At(sources[0]), "b": At(sources[1]), "out": At(result), "multiplier": by.multiplier, "shift": by.shift,
        "a_zero": grids[0].zero_point, "b_zero": grids[1].zero_point, "out_zero": grids[2].zero_point,
        "low": low, "high": high,
    }  # fmt: skip
    made.emit(Layer("multiply", (sources[0], sources[1]), result, fields, SAME_ROWS if second == whole else ALL_ROWS))


def _alike(made: Lowering, operator: FileOperator) -> tuple[int, ...]:
    source, result = made.ends(operator)
    if made.maps[source][:3] != made.maps[result][:3]:
        raise made.wrong("has input and output of different shapes")
    return source, result


def _lookup(made: Lowering, operator: FileOperator) -> None:
    source, result = _alike(made, operator)
    made.grid(operator.inputs[0]), made.grid(operator.output)
    try:
        values = table(made.file, operator)
    except (RuntimeError, ValueError) as error:
        raise made.wrong(f"is refused by the reference kernels: {str(error).partition(chr(10))[0]}") from None
    fields: Fields = {"in": At(source), "out": At(result), "table": Array("int8_t", values)}
    made.emit(Layer("lookup", (source,), result, fields, SAME_ROWS, in_place=True))


def _softmax(made: Lowering, operator: FileOperator) -> None:
    source, result = _alike(made, operator)
    if made.tensor(operator.output).shape[-1:] != (made.maps[result].channels,):
        raise made.wrong("is over the last of five axes")
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
    made.emit(Layer("softmax", (source,), result, fields, SAME_ROWS, in_place=True))


_ALIKE = ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "QUANTIZE")

RULES: Mapping[str, Rule] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": pool("max_pool"),
    "AVERAGE_POOL_2D": pool("avg_pool"),
    "ADD": _add,
    "MUL": _multiply,
    "SOFTMAX": _softmax,
    "GATHER": gather,
    **MOVES,
    **PLACES,
    **REDUCTIONS,
    **RESIZES,
    "TRANSPOSE_CONV": transposed,
    **dict.fromkeys(_ALIKE, _lookup),
}


def lower(model: bytes) -> Program:
    """Return the layers of an int8 model, its weights still to be encoded.

    Raises ``ModelError`` for a file that is not sound, holds floats, has more than one input or output or batch, or an
    operator that is not covered, which is named.
    """
    return _lower(unpacked(read(model)), RULES)


def _lower(file: File, rules: Mapping[str, Rule]) -> Program:
    made = Lowering(file)
    for what, ends in (("input", file.inputs), ("output", file.outputs)):
        if len(ends) != 1:
            raise ModelError(f"the model has {len(ends)} {what}s; C sources are for models of one {what}")
    if len(file.operators) > _MOST_OPERATORS:
        raise ModelError(f"the model has {len(file.operators)} operators; at most {_MOST_OPERATORS} will do")
    source = made.map(file.inputs[0], wide=True)
    if len(shape := made.tensor(file.inputs[0]).shape) > 1 and shape[0] != 1:
        raise ModelError(f"the model's input has the shape {shape}; C sources are for a batch of one")
    for position, operator in enumerate(file.operators):
        name = operator_name(operator)
        made.where = f"operator {position}, {name},"
        if folds(made, operator):
            continue
        if name not in rules:
            shown = name if name.isidentifier() else repr(name[:60])  # on one line, whatever a custom one is called
            raise ModelError(f"operator {position} is {shown}, which has no C kernel")
        rules[name](made, operator)
    result = made.map(file.outputs[0])
    if not made.layers:
        raise ModelError("the model computes nothing: its output is its input")
    if (rows := sum(made.maps[layer.output].height for layer in made.layers)) > _MOST_ROWS:
        raise ModelError(f"the model's maps have {rows} rows in all; at most {_MOST_ROWS} will do")
    tokens = made.tensor(file.inputs[0]).dtype == np.int32
    grids = None if tokens else made.grid(file.inputs[0]), made.grid(file.outputs[0])
    return Program(made.maps, made.layers, source, result, *grids)
