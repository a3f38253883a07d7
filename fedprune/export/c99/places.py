"""Operators that move values and change none: for each value of an output, its place in the input."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor

Places = Callable[[Lowering, FileOperator, Tensor], Sequence[Tensor]]
"""From the places of all values, in the input's shape, to those of each output."""


def _numbers(made: Lowering, operator: FileOperator, position: int) -> list[int]:
    return [int(value) for value in made.constant(operator, position, np.int32).reshape(-1)]


def _transpose(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    order = [made.axis(axis, places.ndim) for axis in _numbers(made, operator, 1)]
    if sorted(order) != [*range(places.ndim)]:
        raise made.wrong(f"has the order {order} for {places.ndim} axes")
    return [places.transpose(order)]


def _slice(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    starts, sizes = _numbers(made, operator, 1), _numbers(made, operator, 2)
    if not len(starts) == len(sizes) == places.ndim or min(starts, default=0) < 0 or min(sizes, default=0) < -1:
        raise made.wrong("has no start and size for each axis")
    ends = [None if size < 0 else start + size for start, size in zip(starts, sizes, strict=True)]
    return [places[tuple(map(slice, starts, ends))]]


def _strided(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    options = made.options(operator)
    starts, ends, steps = (_numbers(made, operator, position) for position in (1, 2, 3))
    added = [bool((options.ellipsisMask | options.newAxisMask) >> at & 1) for at in range(len(starts))]
    if not len(starts) == len(ends) == len(steps) or len(starts) - sum(added) > places.ndim or 0 in steps:
        raise made.wrong("has no start, end and step for each axis")
    picked, axis = list[Any](), 0
    for at, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True)):
        if options.ellipsisMask >> at & 1:
            if Ellipsis in picked:
                raise made.wrong("has two ellipses")
            picked.append(Ellipsis)
            axis = places.ndim - (len(added) - at - 1 - sum(added[at + 1 :]))
            continue
        if options.newAxisMask >> at & 1:
            picked.append(None)
            continue
        first = None if options.beginMask >> at & 1 else start
        if options.shrinkAxisMask >> at & 1:
            picked.append(made.axis(first or 0, places.shape[axis]))
        else:
            picked.append(slice(first, None if options.endMask >> at & 1 else end, step))
        axis += 1
    return [places[tuple(picked)]]


def _split(made: Lowering, operator: FileOperator, places: Tensor) -> Sequence[Tensor]:
    axis = made.axis(_numbers(made, operator, 0)[0], places.ndim)
    count = len(operator.outputs)
    if places.shape[axis] % count:
        raise made.wrong(f"splits {places.shape[axis]} values into {count} parts")
    return np.split(places, count, axis)


def _split_by_sizes(made: Lowering, operator: FileOperator, places: Tensor) -> Sequence[Tensor]:
    sizes, (axis, *_) = _numbers(made, operator, 1), _numbers(made, operator, 2)
    axis = made.axis(axis, places.ndim)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = places.shape[axis] - sum(sizes) - 1
    if min(sizes, default=-1) < 0 or sum(sizes) != places.shape[axis] or len(sizes) != len(operator.outputs):
        raise made.wrong(f"splits {places.shape[axis]} values into parts of {sizes}")
    return np.split(places, np.cumsum(sizes)[:-1], axis)


def _unpack(made: Lowering, operator: FileOperator, places: Tensor) -> Sequence[Tensor]:
    return [*np.moveaxis(places, made.axis(int(made.options(operator).axis), places.ndim), 0)]


def _gathered(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    options = made.options(operator)
    indices, axis = made.constant(operator, 1, np.int32), made.axis(int(options.axis), places.ndim)
    if options.batchDims or indices.min(initial=0) < 0 or indices.max(initial=0) >= places.shape[axis]:
        raise made.wrong("has indices by batch, or outside its input")
    return [np.take(places, indices, axis)]


def _blocks(made: Lowering, operator: FileOperator, places: Tensor, size: int) -> int:
    if places.ndim != 4 or size < 1:
        raise made.wrong(f"has blocks of {size} in {places.ndim} axes")
    return size


def _depth_to_space(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    block = _blocks(made, operator, places, int(made.options(operator).blockSize))
    batch, height, width, channels = places.shape
    if channels % block**2:
        raise made.wrong(f"makes blocks of {block} of {channels} channels")
    parts = places.reshape(batch, height, width, block, block, channels // block**2).transpose(0, 1, 3, 2, 4, 5)
    return [parts.reshape(batch, height * block, width * block, -1)]


def _space_to_depth(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    block = _blocks(made, operator, places, int(made.options(operator).blockSize))
    batch, height, width, channels = places.shape
    if height % block or width % block:
        raise made.wrong(f"makes blocks of {block} of {height} x {width} positions")
    rows, columns = height // block, width // block
    parts = places.reshape(batch, rows, block, columns, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return [parts.reshape(batch, rows, columns, -1)]


def _reverse(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    axes = {made.axis(axis, places.ndim) for axis in _numbers(made, operator, 1)}
    return [np.flip(places, (*axes,))]


def _mirror(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    sides, edges = made.constant(operator, 1, np.int32), int(made.options(operator).mode)
    whole = made.tensor(operator.output).shape
    if sides.shape != (places.ndim, 2) or len(whole) != places.ndim:
        raise made.wrong("has no two sides for each axis")
    for size, (before, after), outer in zip(places.shape, sides.astype(int), whole, strict=True):
        if min(before, after) < 0 or max(before, after) > size - 1 + edges or before + size + after != outer:
            raise made.wrong("mirrors more than there is, or leaves its output")
    return [np.pad(places, sides, "symmetric" if edges else "reflect")]


def _spread(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    try:
        return [np.broadcast_to(places, made.tensor(operator.output).shape)]
    except ValueError:
        raise made.wrong("spreads a shape that does not fit its output") from None


def _tile(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    times, whole = _numbers(made, operator, 1), made.tensor(operator.output).shape
    if tuple(np.multiply(times, places.shape) if len(times) == places.ndim else ()) != whole:
        raise made.wrong("repeats its input to another shape than its output's")
    return [np.tile(places, times)]


def _nearest(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    options, whole = made.options(operator), made.tensor(operator.output).shape
    if places.ndim != 4 or len(whole) != 4:
        raise made.wrong("resizes what has not four axes")
    for axis in (1, 2):
        size, wanted = places.shape[axis], whole[axis]
        between = options.alignCorners and wanted > 1
        step = np.float32(size - between) / np.float32(wanted - between)
        at = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 * bool(options.halfPixelCenters))) * step
        nearest = np.floor(at + np.float32(0.5)) if options.alignCorners else np.floor(at)
        places = np.take(places, np.minimum(nearest.astype(int), size - 1), axis)
    return [places]


def _relabelled(made: Lowering, operator: FileOperator, places: Tensor) -> list[Tensor]:
    shape = made.tensor(operator.output).shape
    if int(np.prod(shape, dtype=np.int64)) != places.size:
        raise made.wrong("changes the number of values")
    return [places.reshape(shape)]


SOURCES: Mapping[str, int] = {"SPLIT": 1}
"""Which input holds the values, where it is not the first."""

PLACES_OF: Mapping[str, Places] = {
    "TRANSPOSE": _transpose,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "SPLIT": _split,
    "SPLIT_V": _split_by_sizes,
    "UNPACK": _unpack,
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
    "REVERSE_V2": _reverse,
    "MIRROR_PAD": _mirror,
    "BROADCAST_TO": _spread,
    "TILE": _tile,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "GATHER": _gathered,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), _relabelled),
}


def moved(made: Lowering, operator: FileOperator, name: str, places: Tensor) -> list[Tensor]:
    """Return what is where in each output of an operator, given the places of its input's values in their shape."""
    found = PLACES_OF[name](made, operator, places)
    shapes = [made.tensor(index).shape for index in operator.outputs]
    if [each.shape for each in found] != shapes:
        raise made.wrong(f"makes shapes {[each.shape for each in found]} of outputs of {shapes}"[:200])
    return [*found]
