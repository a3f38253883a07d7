"""Weights of a layer as rows of entries: which values of a map each reads, forwards and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedprune.graph import Conv2d, Linear
from fedprune.native.maps import Halo
from fedprune.native.steps import Map, Size
from fedprune.types import Tensor

DENSE = 0.5
"""From this density on, all weights of a layer are multiplied: kernels for rows that read the same are faster."""
BLOCK = 32
"""Channels of which the nearest cache holds what a tile of a few positions reads."""
ENTRIES = 16
"""So many a row and block, on average, make up for a sum that is put away and taken up again with each block."""


class Window(NamedTuple):
    """What a layer reads of a map: its kernel, as a convolution's."""

    rows: int
    columns: int
    stride: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True, eq=False)
class Entries:
    """The weights of a layer that are held, in the order of its dense tensor."""

    shape: tuple[int, int, int, int]  # (out, in / groups, rows, columns)
    at: Tensor | None
    """Positions in the flat tensor, ascending; None where all are held."""
    values: int
    """How many are held."""

    @property
    def dense(self) -> bool:
        """Whether all of its weights are held."""
        return self.at is None


def window(op: Conv2d | Linear) -> Window:
    """A linear layer is a convolution over one position."""
    if isinstance(op, Linear):
        return Window(1, 1, (1, 1), (0, 0), (1, 1), 1)
    (top, _), (left, _) = op.padding
    rows, columns = op.weight.value.shape[2:] if op.weight.value.ndim == 4 else (1, op.weight.value.shape[2])
    return Window(rows, columns, op.stride, (top, left), op.dilation, op.groups)


def entries(op: Conv2d | Linear, mask: Tensor | None) -> Entries:
    """The entries of a layer under its mask, of any shape with as many values."""
    own, size = window(op), op.weight.value.size
    out = op.weight.value.shape[0]
    shape = (out, size // (out * own.rows * own.columns), own.rows, own.columns)
    if mask is None or np.count_nonzero(mask) >= DENSE * size:
        return Entries(shape, None, size)
    kept = _int32(np.flatnonzero(mask))
    return Entries(shape, kept, len(kept))


@dataclass(frozen=True, eq=False)
class Rows:
    """Of a sparse layer: starts of rows, offsets of entries and which value each has (None: in order), int32.

    Entries lie by ``blocks`` of the channels that they read, and by rows in each.
    """

    blocks: int
    starts: Tensor
    offsets: Tensor
    index: Tensor | None


@dataclass(frozen=True, eq=False)
class Shared:
    """Of a dense layer: offsets that all rows of a group have, where their weights begin, and the distances."""

    offsets: Tensor
    bases: Tensor
    weight_row: int
    weight_group: int
    x_group: int


@dataclass(frozen=True, eq=False)
class Phase:
    """Positions of the gradient of a layer's input that read the same weights: every ``stride``-th from ``first``."""

    first: tuple[int, int]
    height: int
    width: int
    rows: Rows | Shared


def input_halo(own: Window, x: Size, y: Size) -> Halo:
    """Rows and columns outside its input that a layer reads."""
    return (
        _beyond(own.rows, own.stride[0], own.before[0], own.dilation[0], x.height, y.height),
        _beyond(own.columns, own.stride[1], own.before[1], own.dilation[1], x.width, y.width),
    )


def _beyond(kernel: int, stride: int, before: int, dilation: int, given: int, made: int) -> int:
    last = (made - 1) * stride + (kernel - 1) * dilation - before
    return max(0, before, last - (given - 1))


def output_halo(own: Window, x: Size, y: Size) -> Halo:
    """Rows and columns outside its output's gradient that the gradient of its input reads."""
    rows, columns = (
        max(
            (max(0, -start, start + count - made) for first in range(min(stride, given))
             for start, count, _ in _taps(kernel, stride, before, dilation, given, first)),
            default=0,
        )
        for kernel, stride, before, dilation, given, made in (
            (own.rows, own.stride[0], own.before[0], own.dilation[0], x.height, y.height),
            (own.columns, own.stride[1], own.before[1], own.dilation[1], x.width, y.width),
        )
    )  # fmt: skip
    return rows, columns


def _taps(kernel: int, stride: int, before: int, dilation: int, given: int, first: int) -> list[tuple[int, int, int]]:
    """Of positions first, first + stride, …: (where in the output each tap's first one lies, how many, the tap)."""
    count = -(-(given - first) // stride)
    return [
        ((first + before - tap * dilation) // stride, count, tap)
        for tap in range(kernel)
        if (first + before - tap * dilation) % stride == 0
    ]


def forwards(own: Window, of: Entries, x: Map, *, in_blocks: bool = False) -> Rows | Shared:
    """How a layer reads its input, whose map begins at its first position; entries in order, unless in blocks."""
    out, inside, _, _ = of.shape
    every = inside * own.rows * own.columns
    o, c, a, b = np.unravel_index(np.arange(every) if of.at is None else of.at, of.shape)
    place = (a * own.dilation[0] - own.before[0]) * x.row + (b * own.dilation[1] - own.before[1]) * x.step
    if of.dense:
        rows = out // own.groups * every
        return Shared(_int32(c * x.channel + place), _int32(np.arange(every)), every, rows, inside * x.channel)
    channel = o // (out // own.groups) * inside + c
    return _rows(o, channel, channel * x.channel + place, np.arange(len(o)), out, in_blocks=in_blocks)


def backwards(own: Window, of: Entries, x: Size, g: Map) -> list[Phase]:
    """How the gradient of a layer's input reads that of its output: sums over the layer's weights, transposed."""
    found = []
    for row in range(min(own.stride[0], x.height)):
        rows = _taps(own.rows, own.stride[0], own.before[0], own.dilation[0], x.height, row)
        for column in range(min(own.stride[1], x.width)):
            columns = _taps(own.columns, own.stride[1], own.before[1], own.dilation[1], x.width, column)
            height, width = -(-(x.height - row) // own.stride[0]), -(-(x.width - column) // own.stride[1])
            found.append(Phase((row, column), height, width, _transposed(own, of, x, g, rows, columns)))
    return found


def _transposed(
    own: Window, of: Entries, x: Size, g: Map, rows: list[tuple[int, int, int]], columns: list[tuple[int, int, int]]
) -> Rows | Shared:
    out, inside, _, _ = of.shape
    top, left = np.full(own.rows, -1), np.full(own.columns, -1)
    here_a, here_b = np.zeros(own.rows, bool), np.zeros(own.columns, bool)
    for start, _, tap in rows:
        top[tap], here_a[tap] = start, True
    for start, _, tap in columns:
        left[tap], here_b[tap] = start, True
    taps, each = own.rows * own.columns, out // own.groups
    if of.at is None:
        a, b = (grid.reshape(-1) for grid in np.meshgrid(*map(np.flatnonzero, (here_a, here_b)), indexing="ij"))
        o = np.repeat(np.arange(each), len(a))
        a, b = np.tile(a, each), np.tile(b, each)
        offsets = o * g.channel + top[a] * g.row + left[b] * g.step
        bases = o * inside * taps + a * own.columns + b
        return Shared(_int32(offsets), _int32(bases), taps, each * inside * taps, each * g.channel)
    o, c, a, b = np.unravel_index(of.at, of.shape)
    used = np.flatnonzero(here_a[a] & here_b[b])
    o, c, a, b = o[used], c[used], a[used], b[used]
    channel = o // each * inside + c
    offsets = o * g.channel + top[a] * g.row + left[b] * g.step
    return _rows(channel, o, offsets, used, x.channels, in_blocks=True)


def _rows(row: Tensor, channel: Tensor, offsets: Tensor, index: Tensor, rows: int, *, in_blocks: bool) -> Rows:
    """Entries of rows, each of which reads a channel; those of a row stay in order, so that its sum is the same."""
    blocks = int(channel.max(initial=0)) // BLOCK + 1
    if not in_blocks or len(row) < ENTRIES * rows * blocks:
        blocks = 1
    key = channel // BLOCK * rows + row if blocks > 1 else row
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(blocks * rows + 1))
    moved = not np.array_equal(index[order], np.arange(len(order)))
    return Rows(blocks, _int32(starts), _int32(offsets[order]), _int32(index[order]) if moved else None)


def _int32(values: Tensor) -> Tensor:
    if values.size and max(abs(int(values.min())), abs(int(values.max()))) >= 2**31:
        raise ValueError("a map of the batch has over 2^31 values; train with smaller batches")
    return values.astype(np.int32)
