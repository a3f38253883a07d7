"""Operators on int8 or int16 as layers: other scales, means, roots, norms of vectors, products of matrices."""

import math

from fedprune.export.c99.arithmetic import lookup
from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, At, Fields, Layer
from fedprune.export.litert.flatbuffer import FileOperator


def alike(made: Lowering, operator: FileOperator, *, wide: bool = False) -> tuple[int, ...]:
    """Return the maps of an operator's input and output, which have one shape; with ``wide`` of int16 as well."""
    source, result = made.ends(operator, wide=wide)
    if made.shape(operator.inputs[0]) != made.shape(operator.output):
        raise made.wrong("has input and output of different shapes")
    return source, result


def by_value(made: Lowering, operator: FileOperator) -> None:
    """Lower an operator whose result is a function of the int8 value alone."""
    alike(made, operator)
    made.grid(operator.inputs[0]), made.grid(operator.output)
    lookup(made, operator)


def quantize(made: Lowering, operator: FileOperator) -> None:
    source, result = alike(made, operator, wide=True)
    wide = made.wide(operator.inputs[0]), made.wide(operator.output)
    if wide == (False, False):
        by_value(made, operator)
        return
    grids = made.grid(operator.inputs[0]), made.grid(operator.output)
    by, (low, high) = made.factor(grids[0].scale / grids[1].scale), made.limits(operator.output)
    fields: Fields = {
        "in": At(source), "out": At(result), "multiplier": by.multiplier, "shift": by.shift,
        "in_zero": grids[0].zero_point, "out_zero": grids[1].zero_point, "low": low, "high": high,
        "in_wide": int(wide[0]), "out_wide": int(wide[1]),
    }  # fmt: skip
    made.emit(Layer("rescale", (source,), result, fields, SAME_ROWS, in_place=wide[0] == wide[1]))


def rsqrt(made: Lowering, operator: FileOperator) -> None:
    source, result = alike(made, operator, wide=True)
    if not made.wide(operator.inputs[0]):
        by_value(made, operator)
        return
    if not made.wide(operator.output):
        raise made.wrong("has input and output of different types")
    scales = made.grid(operator.inputs[0]).scale, made.grid(operator.output).scale
    by = made.factor(1 / (math.sqrt(scales[0]) * scales[1]))
    shift = by.shift - 20
    fields: Fields = {"in": At(source), "out": At(result), "multiplier": by.multiplier, "shift": shift}
    made.emit(Layer("rsqrt", (source,), result, fields, SAME_ROWS, in_place=True, helpers=("inverse_root",)))


def l2_norm(made: Lowering, operator: FileOperator) -> None:
    source, result = alike(made, operator)
    if made.tensor(operator.output).shape[-1:] != (made.maps[result].channels,):
        raise made.wrong("is over the last of five axes")
    grid = made.grid(operator.output)
    if grid != (1 / 128, 0):
        raise made.wrong(f"has an output of scale {grid.scale} and zero point {grid.zero_point}, not 1/128 and 0")
    fields: Fields = {"in": At(source), "out": At(result), "in_zero": made.grid(operator.inputs[0]).zero_point}
    made.emit(Layer("l2_norm", (source,), result, fields, SAME_ROWS, in_place=True, helpers=("inverse_root",)))


def matmul(made: Lowering, operator: FileOperator) -> None:
    """Lower BATCH_MATMUL of activations or constants."""
    operands = made.operand(operator, 0), made.operand(operator, 1)
    result = made.map(operator.output)
    options = made.options(operator)
    turned = bool(options.adjX), bool(options.adjY)
    if max(len(made.tensor(index).shape) for index in operator.inputs[:2]) > 4:
        raise made.wrong("multiplies tensors of more than four axes")
    shapes = [made.shape(index) for index in operator.inputs[:2]]
    (first, rows, inner), (second, inner_too, columns) = (
        (shape[0], *(shape[:0:-1] if turn else shape[1:])) for shape, turn in zip(shapes, turned, strict=True)
    )
    sources = [each.map for each in operands if isinstance(each, At)]
    types = {made.tensor(index).dtype.name for index in operator.inputs[:2]}
    if types != {"int8"} or not sources:
        raise made.wrong(f"multiplies matrices of {' and '.join(sorted(types))}, or constants alone")
    height = made.maps[result].height
    if inner != inner_too or made.maps[result][1:3] != (rows, columns) or {first, second} - {1} - {height}:
        raise made.wrong(f"multiplies matrices of shapes {shapes[0]} and {shapes[1]}")
    grids = [made.grid(index) for index in (*operator.inputs[:2], operator.output)]
    by = made.factor(grids[0].scale * grids[1].scale / grids[2].scale)
    fields: Fields = {
        "a": operands[0], "b": operands[1], "out": At(result), "multiplier": by.multiplier, "shift": by.shift,
        "inner": inner, "a_turned": int(turned[0]), "b_turned": int(turned[1]), "a_zero": grids[0].zero_point,
        "b_zero": grids[1].zero_point, "out_zero": grids[2].zero_point,
    }  # fmt: skip
    made.work += height * rows * columns * inner
    rowwise = all(made.maps[source].height == height for source in sources)
    made.emit(Layer("matmul", (*dict.fromkeys(sources),), result, fields, SAME_ROWS if rowwise else ALL_ROWS))
