"""The least pieces of weights as bytes, in every code: each weight, or those that are not zero and where they are."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fedprune.types import Tensor


class Unit(NamedTuple):
    """The least piece of a code that a decoder takes at once: its bytes, and the weights in it."""

    code: bytes
    weights: tuple[int, ...]


def dense(filter_: Tensor) -> Iterator[Unit]:
    """Every weight, zeros too, in pairs."""
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


def gap4(filter_: Tensor) -> Iterator[Unit]:
    """Two weights in three bytes: how many zeros come before each, four bits apiece, and their values."""
    pairs = _gaps(filter_, 15)
    pairs += [(0, 0)] * (len(pairs) % 2)
    for (gap, first), (gap2, second) in zip(pairs[::2], pairs[1::2], strict=True):
        yield Unit(bytes([gap | gap2 << 4]) + _bytes(first, second), (first, second))


def gap5(filter_: Tensor) -> Iterator[Unit]:
    """Three weights in five bytes: how many zeros come before each, five bits apiece, and their values."""
    triples = _gaps(filter_, 31)
    triples += [(0, 0)] * (-len(triples) % 3)
    for at in range(0, len(triples), 3):
        gaps, weights = zip(*triples[at : at + 3], strict=True)
        bits = gaps[0] | gaps[1] << 5 | gaps[2] << 10
        yield Unit(bits.to_bytes(2, "little") + _bytes(*weights), weights)


def gap8(filter_: Tensor) -> Iterator[Unit]:
    """Two bytes a weight: how many zeros come before it, and its value."""
    for gap, weight in _gaps(filter_, 255):
        yield Unit(bytes([gap]) + _bytes(weight), (weight,))


def bitmap(filter_: Tensor) -> Iterator[Unit]:
    """A byte for each eight weights, its highest bit for the first, then those that are not zero."""
    for start in range(0, len(filter_), 8):
        part = filter_[start : start + 8]
        kept = tuple(int(weight) for weight in part if weight)
        yield Unit(np.packbits(part != 0).tobytes() + _bytes(*kept), kept)


def holds(filters: Tensor, kept: int, width: int) -> bool:
    """Whether of every ``width`` neighbours in ``filters`` (filters, weights) at most ``kept`` are not zero."""
    groups = np.pad(filters != 0, ((0, 0), (0, -filters.shape[1] % width))).reshape(-1, width)
    return int(groups.sum(1).max(initial=0)) <= kept


def places(filter_: Tensor, kept: int, width: int) -> Iterator[Unit]:
    """Four weights: which of its group of ``width``, 4 or 16, each is, two or four bits apiece, and their values.

    Of every group there are ``kept``, 1, 2 or 4, with a weight of zero where it has fewer. A last unit may go on past
    the filter's end, in zeros.
    """
    padded = np.pad(filter_, (0, -len(filter_) % span(kept, width))).reshape(-1, width)
    order = np.sort(np.argsort(padded == 0, axis=1, kind="stable")[:, :kept], axis=1)
    weights = np.take_along_axis(padded, order, 1).reshape(-1, 4).tolist()
    bits = width.bit_length() - 1
    for chosen, four in zip(order.reshape(-1, 4).tolist(), weights, strict=True):
        number = sum(place << bits * at for at, place in enumerate(chosen))
        yield Unit(number.to_bytes(bits // 2, "little") + _bytes(*four), tuple(four))


def span(kept: int, width: int) -> int:
    """Of how many weights the places of one unit say what is kept."""
    return 4 // kept * width


def _bytes(*weights: int) -> bytes:
    return np.array(weights, np.int8).tobytes()
