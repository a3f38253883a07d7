"""Operators that move values and change none as layers: nothing at all, a box, loops of even steps, or tables."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.places import PLACES_OF, SOURCES, moved
from fedprune.export.c99.placing import part, place
from fedprune.export.c99.program import ALL_ROWS, Array, At, Layer, Map, Rows
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_LOOPS = 3  # within a row of the output
_MOST_STEP = 255


def move(made: Lowering, operator: FileOperator) -> None:
    """Lower an operator that only moves values, as `PLACES_OF` says which."""
    name = operator_name(operator)
    position = SOURCES.get(name, 0)
    if not made.has(operator, position):
        raise made.wrong("has no input")
    index = operator.inputs[position]
    source, tensor = made.map(index, wide=True), made.tensor(index)
    counts = name in _RELABELS and tensor.dtype == np.int8
    if counts and made.grid(index) != made.grid(operator.output):
        raise made.wrong("has input and output of different scales")
    width = tensor.dtype.itemsize
    places = np.arange(math.prod(tensor.shape), dtype=np.int32).reshape(tensor.shape)
    for output, each in zip(operator.outputs, moved(made, operator, name, places), strict=True):
        if made.tensor(output).dtype != tensor.dtype:
            raise made.wrong("has input and output of different types")
        flat = each.reshape(-1)
        if np.array_equal(flat, places.reshape(-1)):
            made.map(output, source, wide=True)
        elif made.used(output):
            by_bytes = (flat[:, None] * width + np.arange(width, dtype=np.int32)).reshape(-1)
            emit_move(made, source, made.map(output, wide=True), by_bytes)


_RELABELS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def emit_move(made: Lowering, source: int, result: int, places: Tensor) -> None:
    """Emit the layer that puts byte ``places[i]`` of a map at byte ``i`` of another."""
    before, after = made.maps[source], made.maps[result]
    places = places.reshape(after[:3])
    rows = _rows(places, before)
    tables = _tables(places, before)
    steps = [] if tables is None else [_step(table) for table in tables]
    if tables is not None and all(1 <= step <= _MOST_STEP for step in steps):
        box = part(source, after[:3], [int(table[0]) for table in tables], (0, 0, 0), steps)
        place(made, [source], result, [box], rows)
        return
    loops = _even(places, before, rows)
    if loops is not None:
        whole = ALL_ROWS if loops.pop("whole") else rows
        made.emit(Layer("move", (source,), result, {"in": At(source), "out": At(result), **loops}, whole))
        return
    if tables is None:
        raise made.wrong("moves values as no C kernel does")
    names = ("rows", "columns", "channels")
    fields: dict[str, Any] = {"in": At(source), "out": At(result)}
    fields |= {name: Array("uint16_t", table.tolist()) for name, table in zip(names, tables, strict=True)}
    if after.channels == before.channels and np.array_equal(tables[2], np.arange(after.channels)):
        fields["channels"] = 0
    made.emit(Layer("pick", (source,), result, fields, rows))


def _rows(places: Tensor, source: Map) -> Rows:
    # the least rows in memory that will do: as many rows of the input go with one of the output, or the other way round
    height = len(places)
    flat = places.reshape(height, -1)
    least, most = flat.min(1) // source.row_bytes, flat.max(1) // source.row_bytes + 1
    return rows_between(least, most, source.height)


def rows_between(least: Tensor, most: Tensor, source_height: int) -> Rows:
    """Return which rows of an input are read, given those from ``least`` to before ``most`` for each of the output's.

    All of them where it would be no fewer.
    """
    height = len(least)
    common = math.gcd(height, source_height)
    pairs = {(1, 1), (source_height // common, height // common)}
    pairs |= {(1, -(-height // source_height)), (max(1, source_height // height), 1)}
    at = np.arange(height)
    found = []
    for stride, per in pairs:
        first = int((least - at * stride // per).min())
        reach = int((most - -(-(at + 1) * stride // per)).max())
        if stride <= 255 and per <= 255 and abs(first) + abs(reach) + stride < source_height:
            found.append(Rows(stride, first, reach, per))
    return min(found, key=lambda each: (each.reach - each.first, each.per), default=ALL_ROWS)


def _tables(places: Tensor, source: Map) -> list[Tensor] | None:
    # row, column and channel that are read for each row, column and channel; None where they depend on each other
    found = []
    values = (places // source.row_bytes, places % source.row_bytes // source.channels, places % source.channels)
    for axis, each in enumerate(values):
        table = np.moveaxis(each, axis, 0)[:, 0, 0]
        if (each != table.reshape([-1 if other == axis else 1 for other in range(3)])).any():
            return None
        found.append(table)
    return found


def _step(table: Tensor) -> int:
    # 0 where steps differ
    if len(table) == 1:
        return 1
    steps = np.diff(table)
    return int(steps[0]) if (steps == steps[0]).all() else 0


def _even(places: Tensor, source: Map, rows: Rows) -> dict[str, Any] | None:
    # loops from the innermost out, within a row and over rows; ``whole``: the input is read as one row of bytes
    start = int(places[0, 0, 0])
    inside = _loops((places[0] - start).reshape(-1))
    outside = _loops(places[:, 0, 0] - start)
    if inside is None or outside is None or len(inside) > _LOOPS or len(outside) > 2:
        return None
    if (places - places[:, :1, :1] != places[:1] - start).any():
        return None
    (count, step), *around = inside or [(1, 0)]
    loops = [*outside, *[(1, 0)] * (2 - len(outside)), *around, *[(1, 0)] * (2 - len(around))]
    if max(size for size, _ in loops) > 0xFFFF:
        return None
    apart = [(size, int(stride / source.row_bytes), int(math.fmod(stride, source.row_bytes))) for size, stride in loops]
    first = divmod(start, source.row_bytes)
    whole = rows == ALL_ROWS or not _fits(apart, (count, step), first, source.row_bytes)
    if whole:
        apart, first = [(size, 0, stride) for size, stride in loops], (0, start)
    fields: dict[str, Any] = {"row": first[0], "byte": first[1], "count": count, "step": step, "whole": whole}
    for name, (size, by_rows, by_bytes) in zip(("inner", "outer", "right", "left"), apart, strict=True):
        fields |= {f"{name}_count": size, f"{name}_rows": by_rows, f"{name}_bytes": by_bytes}
    del fields["outer_count"]
    return fields


def _loops(places: Tensor) -> list[tuple[int, int]] | None:
    # (count, step), the innermost first, of loops that go through the places; None where there is none
    found = []
    while len(places) > 1:
        steps = np.diff(places)
        count = math.gcd(len(places), *(np.flatnonzero(steps != steps[0]) + 1).tolist())
        if count == 1:
            return None
        found.append((count, int(steps[0])))
        places = places[::count]
    return found


def _fits(loops: list[tuple[int, int, int]], last: tuple[int, int], first: tuple[int, int], row_bytes: int) -> bool:
    # whether each value lies in the row that the loops say
    ends = [(size - 1) * by_bytes for size, _, by_bytes in loops] + [(last[0] - 1) * last[1]]
    least = first[1] + sum(min(0, end) for end in ends)
    return least >= 0 and first[1] + sum(max(0, end) for end in ends) < row_bytes


MOVES: Mapping[str, Rule] = {name: move for name in PLACES_OF if name != "GATHER"}
