"""Weights as bytes: every one, or those that are not zero with a bitmap or gaps; the shortest or fastest of them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fedprune.types import Tensor


class Unit(NamedTuple):
    """The least piece of a code that a decoder takes at once: its bytes, and the weights in it."""

    code: bytes
    weights: tuple[int, ...]


class Encoding(NamedTuple):
    """One way to write the weights of a filter, and what its decoder costs."""

    name: str
    units: Callable[[Tensor], Iterator[Unit]]
    code_bytes: int
    """Of the decoder, about, on a Cortex-M4; for every weight, of the kernel that takes the place of a tile's."""
    per_unit: float
    """Instructions for a unit and a tile of eight positions, measured on a Cortex-M4."""
    per_kept: float
    """Further instructions for each weight in a unit that is not zero."""


class Code(NamedTuple):
    """The filters of a layer as bytes."""

    encoding: Encoding
    content: bytes
    """Filter after filter, segment after segment, each with its number of units in front."""
    segments: int
    """Of every filter: so many parts that the sums of none can leave 23 bits, nor its units a byte."""


def _dense(filter_: Tensor) -> Iterator[Unit]:
    values = [*map(int, filter_)] + [0] * (len(filter_) % 2)
    for first, second in zip(values[::2], values[1::2], strict=True):
        yield Unit(_bytes(first, second), (first, second))


def _gaps(filter_: Tensor, most: int) -> list[tuple[int, int]]:
    # (zeros before, weight) of every weight; a gap that is too long goes by way of a weight of zero.
    found: list[tuple[int, int]] = []
    before = -1
    for position in map(int, np.flatnonzero(filter_)):
        gap = position - before - 1
        while gap > most:
            found.append((most, 0))
            gap -= most + 1
        found.append((gap, int(filter_[position])))
        before = position
    return found


def _gap4(filter_: Tensor) -> Iterator[Unit]:
    pairs = _gaps(filter_, 15)
    pairs += [(0, 0)] * (len(pairs) % 2)
    for (gap, first), (gap2, second) in zip(pairs[::2], pairs[1::2], strict=True):
        yield Unit(bytes([gap | gap2 << 4]) + _bytes(first, second), (first, second))


def _gap5(filter_: Tensor) -> Iterator[Unit]:
    triples = _gaps(filter_, 31)
    triples += [(0, 0)] * (-len(triples) % 3)
    for at in range(0, len(triples), 3):
        gaps, weights = zip(*triples[at : at + 3], strict=True)
        bits = gaps[0] | gaps[1] << 5 | gaps[2] << 10
        yield Unit(bits.to_bytes(2, "little") + _bytes(*weights), weights)


def _gap8(filter_: Tensor) -> Iterator[Unit]:
    for gap, weight in _gaps(filter_, 255):
        yield Unit(bytes([gap]) + _bytes(weight), (weight,))


def _bitmap(filter_: Tensor) -> Iterator[Unit]:
    for start in range(0, len(filter_), 8):
        part = filter_[start : start + 8]
        kept = tuple(int(weight) for weight in part if weight)
        yield Unit(np.packbits(part != 0).tobytes() + _bytes(*kept), kept)


def _bytes(*weights: int) -> bytes:
    return np.array(weights, np.int8).tobytes()


DENSE = Encoding("dense", _dense, 1280, 12.8, 0)
GAP4 = Encoding("gap4", _gap4, 130, 22, 0)
GAP5 = Encoding("gap5", _gap5, 170, 31, 0)
GAP8 = Encoding("gap8", _gap8, 90, 11, 0)
BITMAP = Encoding("bitmap", _bitmap, 110, 13, 12)
_TILE_BYTES = 1190
"""Of what all decoders but the first share, about."""
ENCODINGS = (DENSE, GAP4, GAP5, GAP8, BITMAP)

_SUM_LIMIT = (2**22 - 1) // 128
"""Of a segment's weights, whatever their signs, since an input is at most 128."""


MOST_SEGMENTS = 255
"""Of a filter: their number is a byte."""


def encode(filters: Tensor, encoding: Encoding) -> Code:
    """Return int8 ``filters`` (filters, weights) in an encoding.

    Every filter is cut into the same number of segments, as few as keep each one's sums within 23 bits. One that takes
    more than `MOST_SEGMENTS` has one more than those, and is not cut.
    """
    units = [[*encoding.units(filter_)] for filter_ in filters]
    segments = max((_least(row) for row in units), default=1)
    while segments <= MOST_SEGMENTS and not all(_fits(part) for row in units for part in _cut(row, segments)):
        segments += 1
    if segments > MOST_SEGMENTS:
        return Code(encoding, b"".join(unit.code for row in units for unit in row), MOST_SEGMENTS + 1)
    parts = (part for row in units for part in _cut(row, segments))
    content = b"".join(bytes([len(part)]) + b"".join(unit.code for unit in part) for part in parts)
    return Code(encoding, content, segments)


def _cut(units: list[Unit], segments: int) -> list[list[Unit]]:
    ends = [len(units) * position // segments for position in range(segments + 1)]
    return [units[start:end] for start, end in pairwise(ends)]


def _least(units: list[Unit]) -> int:
    """Segments that a filter takes at least."""
    return max(1, -(-len(units) // 255), -(-_sums(units) // _SUM_LIMIT))


def _fits(units: list[Unit]) -> bool:
    return len(units) <= 255 and _sums(units) <= _SUM_LIMIT


def _sums(units: list[Unit]) -> int:
    return sum(abs(weight) for unit in units for weight in unit.weights)


def smallest(layers: Sequence[Tensor]) -> list[Code]:
    """Return every layer in an encoding, such that the layers and the decoders they need take the fewest bytes."""
    codes = [[encode(filters, encoding) for encoding in ENCODINGS] for filters in layers]
    best: list[Code] = []
    least = float("inf")
    for chosen in range(1, 1 << len(ENCODINGS)):
        allowed = [at for at in range(len(ENCODINGS)) if chosen >> at & 1]
        picked = [min((row[at] for at in allowed), key=lambda code: len(code.content)) for row in codes]
        total = sum(len(code.content) for code in picked) + sum(ENCODINGS[at].code_bytes for at in allowed)
        total += _TILE_BYTES if chosen > 1 else 0
        if total < least:
            best, least = picked, total
    return best


def fastest(layers: Sequence[Tensor]) -> list[Code]:
    """Return every layer in the encoding that takes the fewest instructions, as far as can be told beforehand."""
    return [encode(filters, min(ENCODINGS, key=lambda each: _instructions(filters, each))) for filters in layers]


def _instructions(filters: Tensor, encoding: Encoding) -> float:
    units = sum(1 for filter_ in filters for _ in encoding.units(filter_))
    return encoding.per_unit * units + encoding.per_kept * int(np.count_nonzero(filters))
