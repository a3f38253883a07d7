"""Reading the tensors of a .tflite file: types, shapes, grids, constants and what of them is stored."""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from fedprune.export.litert.flatbuffer import FileTensor, Sparsity
from fedprune.export.litert.tables import ModelError, Source, Table
from fedprune.types import FloatTensor, Tensor

_MOST_AXES = 8
_MOST_BYTES = 2**31 - 1  # of one tensor: runtimes count them in int32
_NUMBERS = (np.float16, np.float32, np.float64, np.bool_)
_INTEGERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
_DTYPES = {np.dtype(number).name.upper(): np.dtype(number) for number in (*_NUMBERS, *_INTEGERS)}


def tensors(model: Table, graph: Table, every: bool = False) -> list[FileTensor]:
    """Return the tensors of a graph; raises ``ModelError`` for those that `fedprune.export.litert.reader` refuses."""
    return [_tensor(model, graph.item(0, index), index, every) for index in range(graph.count(0))]


@cache
def _types() -> Mapping[int, str]:
    from ai_edge_litert.schema_py_generated import TensorType

    return {number: name for name, number in vars(TensorType).items() if isinstance(number, int)}


def _tensor(model: Table, table: Table, index: int, every: bool) -> FileTensor:
    name = table.text(3)
    what = f"tensor {index} {name[:60]!r}" if name else f"tensor {index}"  # on one line, whatever the name holds
    (dtype, kind), shape = _dtype(table, what, every), _shape(table, what, every)
    variable = bool(table.number(5, "B"))
    size = math.prod(shape) * dtype.itemsize
    if size > _MOST_BYTES:
        raise ModelError(f"{what} of shape {list(shape)} takes more than {_MOST_BYTES} bytes")
    stored, sparse = _part(model, table, what, every), table.child(6)
    if kind and stored and not every:
        raise ModelError(f"{what} of type {kind} has values")
    if kind or (every and sparse is not None and not _is_by_rows(sparse, shape)):
        # to be looked at, not to be used
        places = Sparsity(np.zeros(1, np.uint8), np.zeros(0, np.uint8)) if sparse is not None else None
        content = _array(model.source, stored, np.dtype(np.uint8)) if stored else None
        if content is not None and not kind and not len(stored) % dtype.itemsize:
            content = content.view(dtype)
        return FileTensor(shape, dtype, content, None, 0, 0, name, places, kind, variable)
    if sparse is not None:
        sparsity = _sparsity(sparse, shape, what)
        shape_stored: tuple[int, ...] = sparsity.columns.shape
    else:
        sparsity, shape_stored = None, shape
    if sparsity and not stored:
        raise ModelError(f"{what} is stored sparse, and none of its values are there")
    needed = math.prod(shape_stored) * dtype.itemsize
    if stored and len(stored) != needed:
        raise ModelError(f"{what} of shape {list(shape)} and type {dtype} has {len(stored)} bytes, not {needed}")
    data = _array(model.source, stored, dtype).reshape(shape_stored) if stored else None
    return FileTensor(shape, dtype, data, *_grid(table, shape, dtype, what, every), name, sparsity, kind, variable)


def _array(source: Source, part: range, dtype: "np.dtype[Any]") -> Tensor:
    return np.frombuffer(source.bytes_of(part), dtype.newbyteorder("<")).astype(dtype, copy=False)


def _dtype(table: Table, what: str, every: bool) -> tuple["np.dtype[Any]", str]:
    """Return numpy's type, and the format's name where that is none."""
    number = table.number(1, "b")
    name = _types().get(number, str(number))
    if name in _DTYPES:
        return _DTYPES[name], ""
    if name == "RESOURCE" or (every and name in _types().values()):
        return np.dtype(np.uint8), name
    raise ModelError(f"{what} is of type {name}, which is not read")


def _shape(table: Table, what: str, every: bool) -> tuple[int, ...]:
    shape, signature = table.integers(0), table.integers(7)
    if max(len(shape), len(signature)) > _MOST_AXES:
        raise ModelError(f"{what} has more than {_MOST_AXES} axes")
    if every:
        return tuple(max(1, size) for size in shape)
    # A first axis that may grow is a batch of one, unless it says of how many: so converters write most files.
    if len(shape) > 1 and shape[0] < 1 and signature[:1] in ((), (-1,)):
        shape = (1, *shape[1:])
    if min(signature[1:], default=0) < 0 or min(shape, default=1) < 1:
        raise ModelError(f"{what} has a dynamic shape; fix it to a batch of one")
    return shape


def _part(model: Table, table: Table, what: str, every: bool) -> range:
    index, count = table.number(2, "I"), model.count(4)
    if index >= count:
        raise ModelError(f"{what} has its data in buffer {index}, and there are {count}")
    if table.number(10, "I"):
        if every:
            return range(0)
        raise ModelError(f"{what} has its data in another file")
    buffer = model.item(4, index)
    offset, size = buffer.number(1, "Q"), buffer.number(2, "Q")
    # Behind the tables, as writers of large files do; an offset of 1 is a mark that never got its value.
    return model.source.within(offset, size) if offset > 1 else buffer.part(0, 1)


def _grid(
    table: Table, shape: tuple[int, ...], dtype: "np.dtype[Any]", what: str, every: bool
) -> tuple[FloatTensor | None, int, int]:
    """Return scales, zero point and axis."""
    grid = table.child(4)
    if grid is None:
        return None, 0, 0
    if grid.number(4, "B"):
        if every:
            return None, 0, 0
        raise ModelError(f"{what} has scales by blocks or of its own kind; only scales by channel are read")
    scales, (points, zero_point, differ) = _once(grid, 2, 4, _scales, what), _once(grid, 3, 8, _zero_point, what)
    axis = grid.number(6, "i")
    if not len(scales):
        return None, 0, 0
    if differ and not every:
        raise ModelError(f"{what} has zero points that differ by channel; only equal ones are read")
    if points not in (0, 1, len(scales)):
        raise ModelError(f"{what} has {len(scales)} scales and {points} zero points")
    allowed = {1, shape[axis]} if 0 <= axis < len(shape) else {1} if axis == 0 else set()
    if every and len(scales) not in allowed:
        return None, 0, 0
    if len(scales) not in allowed and dtype == np.int32 and scales.size == math.prod(shape):
        axis = len(shape) - 1  # of a bias, whose scales old converters say to lie along an axis of its weight
    elif len(scales) not in allowed:
        raise ModelError(f"{what} of shape {list(shape)} has {len(scales)} scale(s) along its axis {axis}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= zero_point <= np.iinfo(dtype).max:
        raise ModelError(f"{what} has the zero point {zero_point}, outside {dtype}")
    return scales, zero_point, axis


def _once(grid: Table, field: int, size: int, make: Callable[[Source, range, str], Any], what: str) -> Any:
    # Many tensors share a vector: each is looked at once.
    part = grid.part(field, size)
    return grid.source.once(make.__name__, part, partial(make, grid.source, part, what))


def _scales(source: Source, part: range, what: str) -> FloatTensor:
    scales = _array(source, part, np.dtype(np.float32))
    # Converters give a channel without weights a scale of zero.
    if not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ModelError(f"{what} has a scale that is negative or no number")
    return scales


def _zero_point(source: Source, part: range, what: str) -> tuple[int, int, bool]:
    """Return how many there are, the first one, and whether others differ from it."""
    points = _array(source, part, np.dtype(np.int64))
    differ = len(points) > 0 and bool((points != points[0]).any())
    return len(points), int(points[0]) if len(points) else 0, differ


def _is_by_rows(table: Table, shape: tuple[int, ...]) -> bool:
    try:
        _sparsity(table, shape, "")
    except ModelError:
        return False
    return True


def _sparsity(table: Table, shape: tuple[int, ...], what: str) -> Sparsity:
    order, axes = table.integers(0), [table.item(2, axis) for axis in range(min(table.count(2), _MOST_AXES + 1))]
    kinds = [axis.number(0, "b") for axis in axes]
    sizes = [axis.number(1, "i") for axis in axes[:-1]]
    by_rows = order == tuple(range(len(shape))) and sizes == [*shape[:-1]] and kinds == [0] * (len(shape) - 1) + [1]
    if not shape or not by_rows or table.part(1, 4):
        raise ModelError(f"{what} is stored sparse, and not row by row: that is not read")
    starts, columns = (_places(axes[-1], field, what) for field in (2, 4))
    rows, ends = math.prod(shape[:-1]), starts.astype(np.int64)
    lengths = ends[1:] - ends[:-1]
    if len(starts) != rows + 1 or starts[0] != 0 or starts[-1] != len(columns) or (lengths < 0).any():
        raise ModelError(f"{what} is stored sparse, and its {rows} rows do not add up to {len(columns)} values")
    places = np.repeat(np.arange(rows), lengths) * shape[-1] + columns
    if (np.diff(places) <= 0).any() or columns.min(initial=0) < 0 or columns.max(initial=0) >= shape[-1]:
        raise ModelError(f"{what} is stored sparse, and its values' columns are outside their rows or out of order")
    return Sparsity(starts, columns)


def _places(axis: Table, field: int, what: str) -> Tensor:
    values = axis.child(field + 1)
    dtype = {1: np.int32, 2: np.uint16, 3: np.uint8}.get(axis.number(field, "B"))
    if values is None or dtype is None:
        raise ModelError(f"{what} is stored sparse, and does not say where its values are")
    part = values.part(0, np.dtype(dtype).itemsize)
    axis.source.spend(len(part))  # looked at for each tensor
    return _array(axis.source, part, np.dtype(dtype))
