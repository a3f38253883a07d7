"""Operators on two operands as layers: sums, products, extremes and quotients, of maps and constants that broadcast."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.export.c99.elementwise import table
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.numbers import sum_factors
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, Array, At, Fields, Fixed, Layer, Name
from fedprune.export.litert.flatbuffer import FileOperator

Numbers = Callable[[Lowering, FileOperator, bool], dict[str, int]]
"""The factors of an operation, by the names that the kernel has for them; of int16 or not."""


def binary(operation: str, numbers: Numbers, clips: bool = True, helpers: tuple[str, ...] = ()) -> Rule:
    """Return the rule of an operator on two operands of any shapes, which ``operation`` combines in C."""

    def rule(made: Lowering, operator: FileOperator) -> None:
        operands = [made.operand(operator, position) for position in range(2)]
        ends = (*operator.inputs[:2], operator.output)
        result, wide = made.map(operator.output, wide=True), made.wide(operator.output)
        sources = [each.map for each in operands if isinstance(each, At)]
        if not sources:
            raise made.wrong("has constant operands alone")
        if len({made.tensor(index).dtype for index in ends}) > 1:
            raise made.wrong("has operands and a result of different types")
        *shapes, whole = (made.shape(index) for index in ends)
        if any({*sizes} - {1, most} or max(sizes) != most for most, *sizes in zip(whole, *shapes, strict=True)):
            raise made.wrong(f"has operands of shapes {shapes[0]} and {shapes[1]} for a result of shape {whole}")
        if not wide and _by_value(made, operator, operands, numbers):
            return
        low, high = made.clipping(operator) if clips else made.limits(operator.output)
        names = ("a", "b", "out")
        zeros = [made.grid(index).zero_point for index in ends]
        fields: dict[str, Any] = dict(zip(names, (*operands, At(result)), strict=True))
        fields |= {f"{name}_zero": zero for name, zero in zip(names, zeros, strict=True)}
        fields |= {"operation": Name(operation), "low": low, "high": high, "wide": int(wide)}
        fields |= numbers(made, operator, wide)
        rowwise = all(made.maps[source].height == whole[0] for source in sources)
        rows = SAME_ROWS if rowwise else ALL_ROWS
        layer = Layer("combine", tuple(dict.fromkeys(sources)), result, fields, rows, helpers=(*helpers, operation))
        made.emit(replace(layer, in_place=True))

    return rule


def _by_value(made: Lowering, operator: FileOperator, operands: list[At | Fixed], numbers: Numbers) -> bool:
    """Emit a table, where one operand is a single constant; false where none is."""
    for position, each in enumerate(operands):
        other = operands[1 - position]
        if isinstance(each, Fixed) and len(each.values) == 1 and isinstance(other, At):
            numbers(made, operator, False)  # which refuses what the kernels refuse
            lookup(made, operator, 1 - position)
            return True
    return False


def lookup(made: Lowering, operator: FileOperator, position: int = 0) -> None:
    """Emit a table of the results for each value of the input at ``position``, the others being single constants."""
    source, result = made.map(operator.inputs[position]), made.map(operator.output)
    try:
        values = table(made.tensor, operator, position)
    except (RuntimeError, ValueError) as error:
        raise made.wrong(f"is refused by the reference kernels: {str(error).partition(chr(10))[0]}") from None
    fields: Fields = {"in": At(source), "out": At(result), "table": Array("int8_t", values)}
    made.emit(Layer("lookup", (source,), result, fields, SAME_ROWS, in_place=True))


def _scales(made: Lowering, operator: FileOperator) -> tuple[float, float, float]:
    first, second, result = (made.grid(index).scale for index in (*operator.inputs[:2], operator.output))
    return first, second, result


def _units(made: Lowering, operator: FileOperator, left: int, squared: bool = False) -> dict[str, int]:
    factors = [made.factor(each) for each in sum_factors(*_scales(made, operator), left, squared)]
    if factors[2].shift > 0:
        raise made.wrong("has operands whose scales are too large for that of its result")
    found = {"left": left}
    for prefix, each in zip(("a_", "b_", ""), factors, strict=True):
        found |= {f"{prefix}multiplier": each.multiplier, f"{prefix}shift": each.shift}
    return found


def sums(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factors of ADD and SUB."""
    return _units(made, operator, 15 if wide else 20)


def squares(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factors of SQUARED_DIFFERENCE."""
    return _units(made, operator, 0 if wide else 7, squared=True)


def products(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factor of MUL."""
    first, second, result = _scales(made, operator)
    by = made.factor(first * second / result)
    return {"multiplier": by.multiplier, "shift": by.shift}


def quotients(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factor of DIV."""
    first, second, result = _scales(made, operator)
    single = [np.float32(each) for each in (first, second, result)]
    by = made.factor(float(single[0] / (single[1] * single[2])))  # in single precision, as the kernels take it
    if wide or by.shift > 22:
        raise made.wrong("divides int16, or by a scale that is too small")
    return {"multiplier": by.multiplier, "shift": by.shift}


def extremes(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factors of MAXIMUM and MINIMUM, which have none: they compare steps as they are."""
    return {"a_zero": 0, "b_zero": 0, "out_zero": 0}


def leaks(made: Lowering, operator: FileOperator, wide: bool) -> dict[str, int]:
    """Return the factors of PRELU."""
    first, second, result = _scales(made, operator)
    if wide:
        raise made.wrong("works on int16")
    kept, leaked = made.factor(first / result), made.factor(first * second / result)
    return {
        "a_multiplier": kept.multiplier, "a_shift": kept.shift, "multiplier": leaked.multiplier, "shift": leaked.shift,
    }  # fmt: skip


def _plain(made: Lowering, operator: FileOperator) -> bool:
    """Return whether all is int8, and both operands are activations."""
    ends = (*operator.inputs[:2], operator.output)
    tensors = [made.tensor(index) for index in ends if index >= 0]
    return len(tensors) == 3 and all(each.dtype == np.int8 and each.data is None for each in tensors)


def _add(made: Lowering, operator: FileOperator) -> None:
    maps = made.ends(operator, 2) if _plain(made, operator) else ()
    if len({made.maps[each][:3] for each in maps}) != 1:
        _sum(made, operator)
        return
    numbers = sums(made, operator, False)
    factors = [(numbers[f"{name}_multiplier"], -numbers[f"{name}_shift"]) for name in "ab"]
    order = (0, 1) if factors[1] == _HALF else (1, 0)
    zeros = [made.grid(operator.inputs[at]).zero_point for at in order]
    multiplier, right = factors[order[0]]
    if (multiplier, right) == _HALF:  # a half as well: as almost one, then a shift, which rounds away what is lacking
        multiplier, right = 2**31 - 1, 1
    if not 1 <= -numbers["shift"] <= _MOST_RIGHT or right < 1 or factors[order[1]] != _HALF:
        _sum(made, operator)
        return
    low, high = made.clipping(operator)
    fields: Fields = {
        "a": At(maps[order[0]]), "b": At(maps[order[1]]), "out": At(maps[2]), "a_multiplier": multiplier,
        "out_multiplier": numbers["multiplier"], "a_right": right, "out_right": -numbers["shift"], "a_zero": zeros[0],
        "b_zero": zeros[1], "out_zero": made.grid(operator.output).zero_point, "low": low, "high": high,
    }  # fmt: skip
    made.emit(Layer("add", maps[:2], maps[2], fields, SAME_ROWS, in_place=True))


_HALF = (1 << 30, 0)
_MOST_RIGHT = 22  # a shift of a sum and of its zero point, both within 32 bits


def _multiply(made: Lowering, operator: FileOperator) -> None:
    maps = made.ends(operator, 2) if _plain(made, operator) else ()
    shapes = [made.maps[each][:3] for each in maps]
    order = next((at for at in (0, 1) if maps and shapes[at] == shapes[2]), None)
    if order is None or shapes[1 - order] not in (shapes[2], (1, 1, shapes[2][2])):
        _product(made, operator)
        return
    first, second, result = maps[order], maps[1 - order], maps[2]
    zeros = [
        made.grid(index).zero_point for index in (operator.inputs[order], operator.inputs[1 - order], operator.output)
    ]
    low, high = made.clipping(operator)
    fields: Fields = {
        "a": At(first), "b": At(second), "out": At(result), **products(made, operator, False), "a_zero": zeros[0],
        "b_zero": zeros[1], "out_zero": zeros[2], "low": low, "high": high,
    }  # fmt: skip
    rows = SAME_ROWS if shapes[1 - order] == shapes[2] else ALL_ROWS
    made.emit(Layer("multiply", (first, second), result, fields, rows))


_sum, _product = binary("sum_of", sums, helpers=("unit_of",)), binary("product_of", products)

BINARY: Mapping[str, Rule] = {
    "ADD": _add,
    "MUL": _multiply,
    "SUB": binary("difference_of", sums, helpers=("unit_of",)),
    "SQUARED_DIFFERENCE": binary("square_of", squares, clips=False, helpers=("unit_of",)),
    "DIV": binary("quotient_of", quotients, helpers=("reciprocal",)),
    "MAXIMUM": binary("larger_of", extremes, clips=False),
    "MINIMUM": binary("smaller_of", extremes, clips=False),
    "PRELU": binary("leak_of", leaks, clips=False),
}
