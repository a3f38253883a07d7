"""Layers of random nets that combine, average, normalise and multiply: kinds for `c99_nets.chain`."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from c99_files import Draft
from c99_nets import KINDS, Kind, alike, size_up_to, yes


def wide(draft: Draft, source: int, gain: float = 1.0) -> int:
    """QUANTIZE from int8 to int16, whose largest is ``gain`` times that of int8."""
    grid = (draft.grid(source)[0] * gain / 128, 0)
    return draft.add("QUANTIZE", (source,), draft.activation(draft.shape(source), grid, np.int16))


def narrow(draft: Draft, source: int, gain: float = 1.0) -> int:
    """QUANTIZE from int16 to int8, whose largest is ``gain`` times that of int16."""
    return draft.add(
        "QUANTIZE", (source,), draft.activation(draft.shape(source), (draft.grid(source)[0] * 256 * gain, 0))
    )


def wide_op(draft: Draft, code: str, inputs: Sequence[int], scale: float, shape: tuple[int, ...], **values: Any) -> int:
    """An operator that gives int16."""
    return draft.add(code, inputs, draft.activation(shape, (scale, 0), np.int16), 2, **values)


def normal(draft: Draft, source: int, axes: Sequence[int]) -> int:
    """The values less their mean by their deviation along axes, times a slope and a shift, in int16 between."""
    shape = draft.shape(source)
    short = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    values = wide(draft, source)
    scale = draft.grid(values)[0]
    mean = wide_op(draft, "MEAN", (values, draft.constant(axes)), scale, short, keepDims=True)
    apart = wide_op(draft, "SUB", (values, mean), 1.5 * scale, shape)
    square = wide_op(draft, "MUL", (apart, apart), (1.5 * scale) ** 2 * 20000, shape)
    variance = wide_op(draft, "MEAN", (square, draft.constant(axes)), draft.grid(square)[0] / 2, short, keepDims=True)
    root = wide_op(draft, "RSQRT", (variance,), 6 / (scale * 32767 * 32767), short)
    result = wide_op(draft, "MUL", (apart, root), 4 / 32767, shape)
    slope = draft.constant(draft.random.integers(9000, 32767, shape[-1:]), np.int16, scales=np.float32([1 / 16000]))
    result = wide_op(draft, "MUL", (result, slope), 6 / 32767, shape)
    result = wide_op(draft, "ADD", (result, slope), 6 / 32767, shape)
    return narrow(draft, result)


def levels_of(draft: Draft, shape: Sequence[int]) -> int:
    """A constant operand of int8 over the whole of its grid."""
    scale = np.array([0.05 * np.exp(draft.random.uniform(-1, 1))], np.float32)
    values, zero = draft.random.integers(-128, 128, shape), int(draft.random.integers(-90, 60))
    return draft.constant(values, np.int8, scales=scale, zero_point=zero)


def matmul(draft: Draft, a: int, b: int, shape: tuple[int, ...], turned: tuple[bool, bool] = (False, False)) -> int:
    inner = prod(draft.shape(a)[-2:]) // shape[-2]
    scale = draft.grid(a)[0] * draft.grid(b)[0] * 60 * float(np.sqrt(inner))
    result = draft.activation(shape, (scale, int(draft.random.integers(-60, 60))))
    return draft.add("BATCH_MATMUL", (a, b), result, 2, adjX=turned[0], adjY=turned[1])


def _smaller(draft: Draft, source: int) -> int:
    # a map that broadcasts to the source's shape
    shape = [size if yes(draft) else 1 for size in draft.shape(source)]
    return draft.slice(source, (0, 0, 0, 0), shape, (1, 1, 1, 1)) if yes(draft, 0.7) else levels_of(draft, shape)


def _combine(draft: Draft, source: int, maps: list[int]) -> int:
    code = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")[size_up_to(draft, 6) - 1]
    pair = (source, alike(draft, source, maps) if yes(draft, 0.3) else _smaller(draft, source))
    values = {"fusedActivationFunction": int(yes(draft, 0.2))} if code in ("ADD", "SUB", "MUL") else {}
    result = draft.activation(
        draft.shape(source), (0.1 * float(draft.random.uniform(0.2, 2)), size_up_to(draft, 90) - 60)
    )
    return draft.add(code, pair if yes(draft) else pair[::-1], result, 2, **values)


def _average(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if yes(draft)] or [3]
    mean = draft.mean(source, axes=axes)
    pair = (source, mean)
    return draft.both("SUB", *(pair if yes(draft) else pair[::-1])) if yes(draft, 0.7) else mean


def _normal(draft: Draft, source: int, maps: list[int]) -> int:
    axes = [axis for axis in (1, 2, 3) if yes(draft)] or [3]
    return normal(draft, source, axes)


def _product(draft: Draft, source: int, maps: list[int]) -> int:
    other = alike(draft, source, maps)
    _, height, width, channels = draft.shape(source)
    if yes(draft):  # of channels with channels, or of positions with positions
        return matmul(draft, source, other, (1, height, width, width), turned=(False, True))
    return matmul(draft, source, other, (1, height, channels, channels), turned=(True, False))


def _sequence(draft: Draft, source: int, maps: list[int]) -> int:
    return draft.linear(source, size_up_to(draft, 19), positions=True)


CALCULATORS: tuple[Kind, ...] = (
    *KINDS,
    _combine,
    _combine,
    _combine,
    _combine,
    _average,
    _average,
    _normal,
    _normal,
    _product,
    _sequence,
    _sequence,
)
