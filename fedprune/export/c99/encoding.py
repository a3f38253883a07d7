"""Weights as bytes: every one, or those that are not zero with a bitmap or gaps; the shortest or fastest of them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fedprune.export.c99.flash import kernel_bytes
from fedprune.export.c99.units import Unit, bitmap, dense, gap4, gap5, gap8, holds, places
from fedprune.types import Tensor


class Encoding(NamedTuple):
    """One way to write the weights of a filter, and what its decoder costs."""

    name: str
    units: Callable[[Tensor], Iterator[Unit]]
    per_unit: float
    """Instructions for a unit and a tile of eight positions, measured on a Cortex-M4."""
    per_kept: float
    """Further instructions for each weight in a unit that is not zero."""
    per_linear: float
    """Instructions for a unit in a layer of one position, of which there is no tile."""
    kept: int = 0
    """Of every ``width`` neighbours, at most: of others it cannot be told. 0 where it is told of any weights."""
    width: int = 1

    def holds(self, filters: Tensor) -> bool:
        """Whether ``filters`` (filters, weights) can be written so."""
        return not self.kept or holds(filters, self.kept, self.width)


class Code(NamedTuple):
    """The filters of a layer as bytes."""

    encoding: Encoding
    content: bytes
    """Filter after filter, segment after segment, each with its number of units in front."""
    segments: int
    """Of every filter: so many parts that the sums of none can leave 23 bits, nor its units a byte."""


DENSE = Encoding("dense", dense, 12.8, 0, 2.3)
GAP4 = Encoding("gap4", gap4, 22, 0, 17)
GAP5 = Encoding("gap5", gap5, 31, 0, 22)
GAP8 = Encoding("gap8", gap8, 11, 0, 8)
BITMAP = Encoding("bitmap", bitmap, 13, 12, 30)


def _places(kept: int, width: int, per_unit: float, per_linear: float) -> Encoding:
    units = partial(places, kept=kept, width=width)
    return Encoding(f"{kept}of{width}", units, per_unit, 0, per_linear, kept, width)


PATTERNS = (_places(1, 4, 40, 23.5), _places(2, 4, 40, 22.5), _places(1, 16, 45, 25))
"""Of N:M masks. 1:8 and 2:8 are gaps of four bits: places of three take a twelfth less, and decoders of 400 bytes."""
ENCODINGS = (DENSE, GAP4, GAP5, GAP8, BITMAP, *PATTERNS)

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


def smallest(layers: Sequence[Tensor], kernels: Sequence[str]) -> list[Code]:
    """Return every layer in an encoding, such that the layers and the kernels they need take the fewest bytes.

    ``kernels``: those of the layers, ``conv``, ``linear`` or ``wide``.
    """
    codes = [{each: encode(filters, each) for each in ENCODINGS if each.holds(filters)} for filters in layers]
    offered = [each for each in ENCODINGS if any(each in row for row in codes)]
    best: list[Code] = []
    least = float("inf")
    for chosen in range(1, 1 << len(offered)):
        allowed = [each for at, each in enumerate(offered) if chosen >> at & 1]
        rows = [[row[each] for each in allowed if each in row] for row in codes]
        if not all(rows):
            continue
        picked = [min(row, key=lambda code: len(code.content)) for row in rows]
        total = sum(len(code.content) for code in picked) + code_bytes(picked, kernels)
        if total < least:
            best, least = picked, total
    return best


def code_bytes(codes: Sequence[Code], kernels: Sequence[str]) -> int:
    """Return about what the kernels of layers and their decoders take on a Cortex-M4."""
    files = set[str]()
    for code, kernel in zip(codes, kernels, strict=True):
        whole = _WHOLE.get(kernel) if code.encoding == DENSE else None
        files |= {whole} if whole else {kernel, *_SHARED.get(kernel, ()), decoder(kernel, code)}
    return kernel_bytes(files)


def decoder(kernel: str, code: Code) -> str:
    """Return the name of the file of kernels that reads a code."""
    return f"{_DECODERS[kernel]}_{code.encoding.name}"


_DECODERS = {"conv": "tile", "linear": "linear", "wide": "wide"}
_SHARED = {"conv": ("tile",)}
_WHOLE = {"conv": "dense", "linear": "vector"}
"""What takes the place of a kernel where every weight is there."""


def fastest(layers: Sequence[Tensor], kernels: Sequence[str]) -> list[Code]:
    """Return every layer in the encoding that takes the fewest instructions, as far as can be told beforehand.

    ``kernels``: those of the layers, ``conv``, ``linear`` or ``wide``.
    """
    return [_fastest(filters, kernel) for filters, kernel in zip(layers, kernels, strict=True)]


def _fastest(filters: Tensor, kernel: str) -> Code:
    offered = [each for each in ENCODINGS if each.holds(filters)]
    return encode(filters, min(offered, key=lambda each: _instructions(filters, each, kernel)))


_WIDE_DENSE = 12
"""Instructions for a unit: there is no kernel of pairs for int16."""


def _instructions(filters: Tensor, encoding: Encoding, kernel: str) -> float:
    units = sum(1 for filter_ in filters for _ in encoding.units(filter_))
    per_unit = encoding.per_unit if kernel == "conv" else encoding.per_linear
    if kernel == "wide" and encoding == DENSE:
        per_unit = _WIDE_DENSE
    return per_unit * units + encoding.per_kept * int(np.count_nonzero(filters))
