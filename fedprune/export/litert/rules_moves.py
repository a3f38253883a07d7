"""The .tflite operators of what only moves values; reshapes and permutations are ways to read what is there."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.layout import Dims, Shape
from fedprune.export.litert.lowering import Lowering, Seen
from fedprune.graph import (
    Concat,
    Operation,
    Pad,
    Permute,
    PixelShuffle,
    PixelUnshuffle,
    Reshape,
    Resize,
    Slice,
)


def _reshape(made: Lowering, op: Reshape) -> None:
    name = op.inputs[0]
    before, after = made.shape(name), made.shape(op.output)
    seen = _seen(made, name)
    if seen.order is not None:
        long = [axis for axis, size in enumerate(after) if size > 1]
        dims = tuple(layout.Dim(after[axis], axis, 1) for axis in long)
        if len(long) > 1:
            made.arranged(name, layout.plain(before, range(len(before))), before)  # raises
        made.seen[op.output] = Seen(seen.tensor, dims, seen.order)
        return
    dims_or_none = layout.reshaped(seen.dims, before, after)
    if dims_or_none is None:
        plain = layout.plain(before, range(len(before)))
        index = made.arranged(name, plain, _three(plain))
        dims_or_none = layout.reshaped(plain, before, after)
        assert dims_or_none is not None
        made.seen[op.output] = Seen(index, dims_or_none)
    else:
        made.seen[op.output] = Seen(seen.tensor, dims_or_none)


def _three(dims: Dims) -> Shape:
    sizes = layout.sizes(dims)
    return (*[1] * (4 - len(sizes)), *sizes) if len(sizes) < 4 else (1, prod(sizes[:-2]), *sizes[-2:])


def _seen(made: Lowering, name: str) -> Seen:
    """How a tensor lies; a constant is written, and read as if it were computed."""
    if name not in made.seen:
        first = made.shape(name)
        dims = layout.plain(first, range(len(first)))
        made.seen[name] = Seen(made.arranged(name, dims, _three(dims)), dims)
    return made.seen[name]


def _permute(made: Lowering, op: Permute) -> None:
    seen = _seen(made, op.inputs[0])
    made.seen[op.output] = seen._replace(dims=layout.permuted(seen.dims, op.order))


def _cut(made: Lowering, name: str, axis: int) -> tuple[int, Dims, int]:
    """(the file's tensor, its dimensions, the place of an axis that lies whole in one of them)."""
    seen, first = _seen(made, name), made.shape(name)
    dims = layout.joined(seen.dims)
    index, whole = seen.tensor, layout.Dim(first[axis], axis, 1)
    if seen.order is not None or whole not in dims:
        dims = layout.plain(first, range(len(first)))
        index = made.arranged(name, dims, _three(dims))
    at = dims.index(whole)
    shape = made.tensors[index].shape
    places = _places(shape, dims)
    if places is None:
        sides = (prod(layout.sizes(dims[:at])), whole.size, prod(layout.sizes(dims[at + 1 :])))
        return made.shaped(name, index, (1, *sides)), dims, 2
    return index, dims, places[at]


def _places(shape: Shape, dims: Dims) -> list[int] | None:
    """Where each dimension lies among the axes of the file's tensor; None where they do not fit, or are many."""
    long = [place for place, size in enumerate(shape) if size > 1]
    fits = tuple(shape[place] for place in long) == layout.sizes(dims)
    return long if fits and len(shape) == 4 and (shape[0] == 1 or len(long) < 4) else None


def _resized(dims: Dims, axis: int, size: int) -> Dims:
    changed = (dim._replace(size=size) if dim.axis == axis else dim for dim in dims)
    return tuple(dim for dim in changed if dim.size > 1)


def _slice(made: Lowering, op: Slice) -> None:
    name, count = op.inputs[0], made.shape(op.output)[op.axis]
    if made.shape(name)[op.axis] == 1:
        made.seen[op.output] = made.seen[name]
        return
    index, dims, place = _cut(made, name, op.axis)
    sizes = made.tensors[index].shape
    ends = [(op.start, op.stop, op.step) if at == place else (0, size, 1) for at, size in enumerate(sizes)]
    constants = tuple(made.integers(column) for column in zip(*ends, strict=True))
    shape = (*sizes[:place], count, *sizes[place + 1 :])
    result = made.make(op.output, shape, _resized(dims, op.axis, count))
    made.emit("STRIDED_SLICE", (index, *constants), result, made.options("StridedSlice"))


def _concat(made: Lowering, op: Concat) -> None:
    whole = made.shape(op.output)
    if prod(whole) == whole[op.axis]:
        _vectors(made, op, whole)
        return
    lead = next((name for name in op.inputs if name in made.seen and made.shape(name)[op.axis] > 1), "")
    lead = lead or next((name for name in op.inputs if name in made.seen), op.inputs[0])
    held = _seen(made, lead).dims
    # the lead's order of axes, the one that is joined along whole
    order = list(dict.fromkeys(dim.axis for dim in held))
    if op.axis not in order:
        order = [axis for axis in layout.last(len(whole)) if axis in order or axis == op.axis]
    clean = layout.joined(held) == layout.joined(layout.plain(made.shape(lead), order))
    if not clean:
        order = list(range(len(whole)))
    dims = layout.plain(whole, order)
    at = [dim.axis for dim in dims].index(op.axis)
    sides = layout.sizes(dims[:at]), layout.sizes(dims[at + 1 :])
    place, form = _form(dims, at, whole)
    indices = []
    for name in op.inputs:
        size = made.shape(name)[op.axis]
        indices.append(made.arranged(name, layout.plain(made.shape(name), order), form(size, *sides)))
    _joined(made, op, indices, place, form(whole[op.axis], *sides), dims)


def _form(dims: Dims, at: int, whole: Shape) -> tuple[int, Callable[[int, Shape, Shape], Shape]]:
    """(the axis of the file's tensors that is joined along, the shape of one that is ``size`` long there)."""
    channels_last = layout.plain(whole, layout.last(len(whole)))
    if len(whole) == 4 and dims == channels_last:
        place = (0, 3, 1, 2)[dims[at].axis]
        base = layout.shape(whole)
        return place, lambda size, before, after: (*base[:place], size, *base[place + 1 :])
    if len(dims) <= 3:
        place = 4 - len(dims) + at
        return place, lambda size, before, after: (*[1] * (4 - len(dims)), *before, size, *after)
    return 2, lambda size, before, after: (1, prod(before), size, prod(after))


def _vectors(made: Lowering, op: Concat, whole: Shape) -> None:
    indices, orders, start = [], list[Any](), 0
    for name in op.inputs:
        _seen(made, name)
        index, order = made.vector(name)
        indices.append(index)
        orders.append(order + start)
        start += made.shape(name)[op.axis]
    order = np.concatenate(orders)
    dims = (layout.Dim(start, op.axis, 1),) if start > 1 else ()
    _joined(made, op, indices, 3, (1, 1, 1, start), dims)
    if not np.array_equal(order, np.arange(start)):
        made.seen[op.output] = made.seen[op.output]._replace(order=order)


def _joined(made: Lowering, op: Concat, indices: list[int], place: int, shape: Shape, dims: Dims) -> None:
    indices = [made.onto(index, op.output) for index in indices]
    while len(indices) > _JOINED:
        along = sum(made.tensors[index].shape[place] for index in indices[:_JOINED])
        part = made.add(made.numbers.activation(op.output, (*shape[:place], along, *shape[place + 1 :])))
        made.emit("CONCATENATION", tuple(indices[:_JOINED]), part, made.options("Concatenation", axis=place))
        indices = [part, *indices[_JOINED:]]
    result = made.make(op.output, shape, dims)
    made.emit("CONCATENATION", tuple(indices), result, made.options("Concatenation", axis=place))


_JOINED = 10  # TensorFlow Lite Micro concatenates no more at once


def _pad(made: Lowering, op: Pad) -> None:
    result = made.shape(op.output)
    order, index = layout.last(len(result)), made.read_map(op.inputs[0])
    sides = [op.padding[axis] for axis in order]
    sides = [*[(0, 0)] * (len(made.tensors[index].shape) - len(sides)), *sides]
    made.emit("PAD", (index, made.integers(sides)), made.map(op.output), made.options("Pad"))


def _resize(made: Lowering, op: Resize) -> None:
    inputs = (made.read_map(op.inputs[0]), made.integers(made.shape(op.output)[2:]))
    if op.bilinear:
        half = not op.align_corners
        options = made.options("ResizeBilinear", alignCorners=op.align_corners, halfPixelCenters=half)
        made.emit("RESIZE_BILINEAR", inputs, made.map(op.output), options, 3)
    else:
        options = made.options("ResizeNearestNeighbor", alignCorners=False, halfPixelCenters=False)
        made.emit("RESIZE_NEAREST_NEIGHBOR", inputs, made.map(op.output), options)


def _squares(shape: Shape, by: int) -> Dims:
    # of a map of whole squares of channels: the format has the places of a square before the channels, torch after them
    _, channels, rows, columns = shape
    dims = (
        layout.Dim(rows, 2, 1), layout.Dim(columns, 3, 1), layout.Dim(by * by, 1, 1),
        layout.Dim(channels // by**2, 1, by * by),
    )  # fmt: skip
    return tuple(dim for dim in dims if dim.size > 1)


def _shuffle(made: Lowering, op: PixelShuffle) -> None:
    name, by = op.inputs[0], op.factor
    index = made.arranged(name, _squares(made.shape(name), by), layout.shape(made.shape(name)))
    made.emit("DEPTH_TO_SPACE", (index,), made.map(op.output), made.options("DepthToSpace", blockSize=by))


def _unshuffle(made: Lowering, op: PixelUnshuffle) -> None:
    by, result = op.factor, made.shape(op.output)
    index = made.read_map(op.inputs[0])
    target = made.make(op.output, layout.shape(result), _squares(result, by))
    made.emit("SPACE_TO_DEPTH", (index,), target, made.options("SpaceToDepth", blockSize=by))


MOVES: Mapping[type[Operation], Callable[[Lowering, Any], None]] = {
    Reshape: _reshape,
    Permute: _permute,
    Slice: _slice,
    Concat: _concat,
    Pad: _pad,
    Resize: _resize,
    PixelShuffle: _shuffle,
    PixelUnshuffle: _unshuffle,
}
