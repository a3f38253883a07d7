"""The .tflite operators of reductions, and of the inverse root that norms take of a variance."""

from dataclasses import replace
from math import prod

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.layout import Dims, Shape
from fedprune.export.litert.lowering import Lowering
from fedprune.export.litert.numbers import wide_constant
from fedprune.graph import (
    GlobalMean,
    Reduce,
    Rsqrt,
    UnsupportedOperation,
)


def reduce_axes(made: Lowering, op: Reduce | GlobalMean, code: str, axes: tuple[int, ...]) -> None:
    """Write a reduction over some axes of the graph's tensor."""
    name, first, result = op.inputs[0], made.shape(op.inputs[0]), made.shape(op.output)
    seen = made.seen[name]
    if seen.order is not None:
        raise UnsupportedOperation(f"{op.output} reduces joined flattened maps")
    if isinstance(op, GlobalMean) and layout.joined(seen.dims) == layout.joined(
        layout.plain(first, layout.last(len(first)))
    ):
        source = made.read_map(name)
        places = [1, 2]
        shape: Shape = (1, 1, 1, first[1])
    else:
        shape = made.tensors[seen.tensor].shape
        parts = layout.held(shape, seen.dims)
        pure = parts is not None and all(len({dim.axis in axes for dim in part}) == 1 for part in parts)
        if parts is None or not pure or len(parts) > 3:
            parts = list[Dims]()
            for dim in seen.dims:
                if parts and (parts[-1][-1].axis in axes) == (dim.axis in axes):
                    parts[-1] = (*parts[-1], dim)
                else:
                    parts.append((dim,))
            more = max(0, 4 - len(parts))
            shape = (*[1] * more, *(prod(dim.size for dim in part) for part in parts))
        source = made.shaped(name, seen.tensor, shape)
        long = [place for place, size in enumerate(shape) if size > 1]
        places = [place for place, part in zip(long, parts, strict=True) if part[0].axis in axes]
        shape = tuple(1 if place in places else size for place, size in enumerate(shape))
    kept = tuple(dim for dim in seen.dims if dim.axis not in axes)
    if len(result) != len(first):  # a map of one position, as a vector
        kept = layout.reshaped(kept, tuple(1 if a in axes else size for a, size in enumerate(first)), result) or kept
    options = made.options("Reducer", keepDims=True)
    made.emit(code, (source, made.integers(places)), made.make(op.output, shape, kept), options)


def reduce(made: Lowering, op: Reduce) -> None:
    code = {"mean": "MEAN", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}[op.function]
    reduce_axes(made, op, code, op.axes)


def rsqrt(made: Lowering, op: Rsqrt) -> None:
    seen = made.seen[op.inputs[0]]
    source, shape = seen.tensor, made.tensors[seen.tensor].shape
    scales = made.tensors[source].scales
    ones = (1,) * len(shape)
    least = 0.0 if scales is None else float(scales[0]) / 2
    if op.epsilon >= least and op.epsilon > 0:
        added = made.add(made.numbers.activation(op.inputs[0], shape))
        epsilon = made.constant(op.inputs[0], np.full(ones, op.epsilon, np.float32))
        made.emit("ADD", (source, epsilon), added, made.options("Add"))
        source = added
    result = made.make(op.output, shape, seen.dims)
    if made.numbers.is_wide(op.output):
        _rsqrt_wide(made, source, result)
    else:
        made.emit("RSQRT", (source,), result)


def _rsqrt_wide(made: Lowering, source: int, result: int) -> None:
    """``1 / sqrt(v)`` as that of the larger of v and t times that of the smaller over t.

    LiteRT's table of 16-bit inverse roots has 512 steps, of which the first is far off; t is 128 steps of v's own grid.
    """
    tensor = made.tensors[source]
    assert tensor.scales is not None
    ones, scale = (1,) * len(tensor.shape), float(tensor.scales[0])
    limit = scale * _STEPS

    def wide(most: float) -> int:
        return made.add(replace(tensor, scales=np.array([most / 32767]), data=None))

    edge = made.add(wide_constant(np.full(ones, limit), scale))
    inverse = made.add(wide_constant(np.full(ones, 1 / limit), 1 / limit / 32767))
    above, below, share = made.add(tensor), made.add(tensor), wide(1.0)
    made.emit("MAXIMUM", (source, edge), above, made.options("MaximumMinimum"))
    made.emit("MINIMUM", (source, edge), below, made.options("MaximumMinimum"))
    made.emit("MUL", (below, inverse), share, made.options("Mul"))
    first, second = wide(limit**-0.5), wide(_STEPS**0.5)
    made.emit("RSQRT", (above,), first)
    made.emit("RSQRT", (share,), second)
    made.emit("MUL", (first, second), result, made.options("Mul"))


_STEPS = 128
"""Steps of the grid of a variance below which its inverse root is looked up apart."""
