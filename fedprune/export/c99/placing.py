"""Parts of maps put into places of another: what is padded, joined and stacked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering, Padded, Rule, cells
from fedprune.export.c99.program import ALL_ROWS, SAME_ROWS, WHOLE, At, Fields, Fixed, Layer, Rows, Structs
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_MOST_PARTS = 255
_VALID = 1


def part(source: int, size: Sequence[int], start: Sequence[int], to: Sequence[int], step: Any = (1, 1, 1)) -> Fields:
    """Return the fields of a part: ``size`` cells of a map, every ``step``-th from ``start`` on, put at ``to``."""
    names = ("y", "x", "c")
    found: dict[str, Any] = {"in": At(source), "height": size[0], "width": size[1], "channels": size[2]}
    for prefix, values in (("from", start), ("to", to), ("step", step)):
        found |= {f"{prefix}_{name}": int(value) for name, value in zip(names, values, strict=True)}
    return found


def place(
    made: Lowering, sources: Sequence[int], result: int, parts: Sequence[Fields], rows: Rows, fill: int | None = None
) -> None:
    """Emit the layer that puts parts into a map, which is filled before with ``fill`` if given."""
    fields: Fields = {
        "out": At(result), "parts": Structs("part", parts), "count": len(parts), "fills": int(fill is not None),
        "fill": fill or 0,
    }  # fmt: skip
    made.emit(Layer("place", tuple(dict.fromkeys(sources)), result, fields, rows))


def _three(made: Lowering, index: int, values: Tensor, channel_bytes: int) -> tuple[int, ...]:
    # of an operator's numbers, one an axis, those of height, width and channels
    shape = made.tensor(index).shape
    if len(values) != len(shape):
        raise made.wrong(f"has {len(values)} numbers for {len(shape)} axes")
    *before, height, width, channels = (0,) * (4 - len(shape)) + tuple(int(value) for value in values)
    if any(before) or len(shape) > 4 or (len(shape) == 4 and shape[0] != 1):
        raise made.wrong("pads batches, or more than three axes")
    return height, width, channels * channel_bytes


def _pad(made: Lowering, operator: FileOperator) -> None:
    kind = made.tensor(operator.output).dtype
    width = kind.itemsize  # of a channel, in bytes
    sides = made.constant(operator, 1, np.int32).reshape(-1)
    before, after = (_three(made, operator.inputs[0], sides[at::2], width) for at in range(2))
    given = made.constant(operator, 2, kind).reshape(-1)[0] if made.has(operator, 2) else None
    fill = made.grid(operator.output).zero_point if given is None else int(given)
    if made.tensor(operator.inputs[0]).dtype != kind or (width > 1 and fill not in (0, -1)):  # bytes that are alike
        raise made.wrong(f"pads {kind.name} with {fill}, or another type")
    if not before[2] and not after[2] and _joins(made, operator, before, fill):
        made.padded[operator.output] = Padded(operator.inputs[0], *before[:2])
        return
    source, result = made.ends(operator, wide=True)
    size, whole = made.maps[source][:3], made.maps[result][:3]
    ends = zip(before, size, after, whole, strict=True)
    if any(first < 0 or last < 0 or first + inner + last != outer for first, inner, last, outer in ends):
        raise made.wrong("crops, or leaves its output")
    place(made, [source], result, [part(source, size, (0, 0, 0), before)], ALL_ROWS, fill)


def _joins(made: Lowering, operator: FileOperator, before: Sequence[int], fill: int) -> bool:
    # whether the next operator is the only one that reads this one's output, and has windows that begin within the map
    index = operator.output
    readers = [each for each in made.file.operators if index in each.inputs]
    if len(readers) != 1 or index in made.file.outputs or made.tensor(index).dtype != np.int8:
        return False
    reader = readers[0]
    if operator_name(reader) not in ("CONV_2D", "DEPTHWISE_CONV_2D") or not made.has(reader, 1):
        return False
    follows = made.file.operators.index(reader) == made.file.operators.index(operator) + 1
    window = made.tensor(reader.inputs[1]).shape[1:3]
    shapes = [made.tensor(each).shape for each in (operator.inputs[0], index)]
    return (
        follows
        and reader.inputs.index(index) == 0
        and reader.options is not None
        and reader.options.padding == _VALID
        and fill == made.grid(index).zero_point
        and len(window) == 2
        and all(len(shape) == 4 and shape[0] == 1 for shape in shapes)
        and all(0 <= first < reach for first, reach in zip(before, window, strict=False))
    )


def _joined(made: Lowering, operator: FileOperator, axis: int, shapes: Sequence[tuple[int, ...]]) -> None:
    # tensors of these shapes, one behind the other along an axis of the output
    whole = made.tensor(operator.output).shape
    width = made.tensor(operator.output).dtype.itemsize
    if any(made.tensor(index).dtype != made.tensor(operator.output).dtype for index in operator.inputs):
        raise made.wrong("joins maps of different types")
    beside = {(*shape[:axis], *shape[axis + 1 :]) for shape in (*shapes, whole)}
    if sum(shape[axis] for shape in shapes) != whole[axis] or len(beside) != 1:
        raise made.wrong("joins maps that do not fit together")
    result = made.map(operator.output, wide=True)
    if len(whole) < 4 or (len(whole) == 4 and whole[0] == 1 and axis > 0):
        along, sizes = axis + 3 - len(whole), [cells(shape, width) or (0, 0, 0) for shape in shapes]
    else:  # an axis that is no axis of a map: what is before and behind it is one
        along, outer, inner = 1, math.prod(whole[:axis]), math.prod(whole[axis + 1 :]) * width
        made.within("part", max(outer, whole[axis], inner), WHOLE)
        sizes = [(outer, shape[axis], inner) for shape in shapes]
        result = made.view(result, outer, whole[axis], inner)
    parts, at, sources = [], [0, 0, 0], list[int]()
    for index, size in zip(operator.inputs, sizes, strict=True):
        data = made.tensor(index).data
        if data is None:
            sources.append(made.view(made.map(index, wide=True), *size))
            parts.append(part(sources[-1], size, (0, 0, 0), at))
        elif data.dtype == np.int8:
            fixed = Fixed((size[0], size[1], size[2]), "int8_t", [int(value) for value in data.reshape(-1)])
            parts.append({**part(0, size, (0, 0, 0), at), "in": fixed})
        else:
            raise made.wrong(f"joins a constant of {data.dtype.name}")
        at[along] += size[along]
    if not sources:
        raise made.wrong("joins constants alone")
    plain = along > 0 and len(parts) > 1
    place(made, sources, result, parts, SAME_ROWS if plain else ALL_ROWS)


def _several(made: Lowering, operator: FileOperator) -> list[tuple[int, ...]]:
    if min(operator.inputs, default=-1) < 0 or len(operator.inputs) > _MOST_PARTS:
        raise made.wrong(f"joins nothing, or more than {_MOST_PARTS} maps")
    return [made.tensor(index).shape for index in operator.inputs]


def _concat(made: Lowering, operator: FileOperator) -> None:
    shapes, rank = _several(made, operator), len(made.tensor(operator.output).shape)
    if any(len(shape) != rank for shape in shapes):
        raise made.wrong("joins maps that do not fit together")
    if any(made.grid(index) != made.grid(operator.output) for index in operator.inputs):
        raise made.wrong("joins maps of different scales, which TensorFlow Lite Micro does not do either")
    _joined(made, operator, made.axis(int(made.options(operator).axis), rank), shapes)


def _pack(made: Lowering, operator: FileOperator) -> None:
    shapes, rank = _several(made, operator), len(made.tensor(operator.output).shape)
    if any(len(shape) != rank - 1 for shape in shapes):
        raise made.wrong("stacks maps that do not fit together")
    axis = made.axis(int(made.options(operator).axis), rank)
    _joined(made, operator, axis, [(*shape[:axis], 1, *shape[axis:]) for shape in shapes])


PLACES: Mapping[str, Rule] = {"PAD": _pad, "PADV2": _pad, "CONCATENATION": _concat, "PACK": _pack}
