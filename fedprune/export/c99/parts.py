"""Parts of maps as layers whose place may change from turn to turn of a loop: SLICE, DYNAMIC_UPDATE_SLICE, FILL."""

import math
from collections.abc import Sequence

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.program import ALL_ROWS, At, Fields, Layer, Structs
from fedprune.export.litert.flatbuffer import FileOperator


def taken(plain: Rule) -> Rule:
    """Return the rule of SLICE, which is ``plain`` but where the place of the part is that of a loop's turn."""

    def rule(made: Lowering, operator: FileOperator) -> None:
        moves = made.has(operator, 1) and operator.inputs[1] in made.counters
        (_taken if moves else plain)(made, operator)

    return rule


def _taken(made: Lowering, operator: FileOperator) -> None:
    source, result = made.ends(operator, wide=True)
    whole, part = made.tensor(operator.inputs[0]), made.tensor(operator.output)
    if whole.dtype != part.dtype:
        raise made.wrong("has input and output of different types")
    first, step = _starts(made, operator, 1, whole.shape, part.shape)
    copy(made, source, result, (first, step, 0, 0), math.prod(part.shape) * part.dtype.itemsize, whole.dtype.itemsize)


def put(made: Lowering, operator: FileOperator) -> None:
    """Lower DYNAMIC_UPDATE_SLICE in its own place, for bytes that lie in a row."""
    if not all(made.has(operator, position) for position in range(2)):
        raise made.wrong("has less than 2 input(s)")
    source, result = made.map(operator.inputs[1], wide=True), made.map(operator.output, wide=True)
    if made.map(operator.inputs[0], wide=True) != result:
        raise made.wrong("makes a map besides the one that it changes; only loops that change one are covered")
    whole, part = made.tensor(operator.output), made.tensor(operator.inputs[1])
    if whole.dtype != part.dtype:
        raise made.wrong("has inputs of different types")
    first, step = _starts(made, operator, 2, whole.shape, part.shape)
    copy(made, source, result, (0, 0, first, step), math.prod(part.shape) * part.dtype.itemsize, whole.dtype.itemsize)


def copy(made: Lowering, source: int, result: int, moves: tuple[int, ...], count: int, width: int) -> None:
    """Emit the layer that copies ``count`` bytes: (from, how far the next turn begins, to, how far that)."""
    values = [width * move for move in moves]
    names = ("from", "from_step", "to", "to_step")
    fields: Fields = {"in": At(source), "out": At(result), **dict(zip(names, values, strict=True)), "bytes": count}
    made.emit(Layer("copy", (source,), result, fields, ALL_ROWS))


def _starts(
    made: Lowering, operator: FileOperator, position: int, whole: Sequence[int], part: Sequence[int]
) -> tuple[int, int]:
    """(where a part begins, and how far the next turn's does), in values, for a part whose values lie in a row."""
    if not made.has(operator, position):
        raise made.wrong("has no start")
    index = operator.inputs[position]
    starts = made.counters.get(index)
    if starts is None:
        starts = made.constant(operator, position, np.int32).reshape(1, -1).astype(np.int64)
    if starts.shape[1] != len(whole) or len(part) != len(whole):
        raise made.wrong("has a start of other axes")
    if (starts < 0).any() or (starts + np.array(part) > np.array(whole)).any():
        raise made.wrong("leaves its map")
    long = [axis for axis, size in enumerate(part) if size > 1]
    if any(part[axis] != whole[axis] for axis in range(min(long, default=0) + 1, len(whole)) if long):
        raise made.wrong("takes values that do not lie in a row")
    strides = np.array([math.prod(whole[axis + 1 :]) for axis in range(len(whole))], np.int64)
    places = starts @ strides
    steps = np.diff(places)
    if steps.size and (steps != steps[0]).any():
        raise made.wrong("moves on by different steps")
    return int(places[0]), int(steps[0]) if steps.size else 0


def filled(made: Lowering, operator: FileOperator) -> None:
    """Lower FILL with a constant whose bytes are all the same."""
    result = made.map(operator.output, wide=True)
    tensor = made.tensor(operator.output)
    value = {*made.constant(operator, 1, tensor.dtype).astype(tensor.dtype).tobytes()}
    if len(value) != 1:
        raise made.wrong("fills a map with a value of different bytes")
    byte = value.pop()
    fields: Fields = {
        "out": At(result), "parts": Structs("part", []), "count": 0, "fills": 1, "fill": byte - 256 * (byte > 127),
    }  # fmt: skip
    made.emit(Layer("place", (), result, fields, ALL_ROWS))
