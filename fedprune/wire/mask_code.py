"""The code of a mask's gaps: near the entropy bound at every density, in numpy alone.

Coded gaps hold where the rarer of True and False lies. With p its fraction, the gaps between are geometric; each is
split into ``s`` low bits, nearly uniform and sent as they are, and a high part in unary (Rice's code). The unary parts,
end to end, are again a bitmap, shorter and denser: each of its bits is 1 with probability 1 − (1 − p)^(2^s). At the
best s they are nearly fair bits and travel as they are; where that would waste, s is one smaller and they go through
an entropy coder, byte by byte. At s = 0 the unary bitmap is the mask itself. So one code serves every density.

The coder is rANS (Duda, arXiv:1311.2540) on 32-bit states and 16-bit words, vectorised over interleaved lanes. Both
sides compute its frequencies in integers from two counts, so they agree on any machine.

A message is one byte, form | s << 3, then by form, counts as LEB128 varints and the rest little-endian:
    GAPS            count of the rarer value, the low bits (a plane for each bit), the unary bits
    GAPS + CODED    count, the low bits, number of unary bits, lanes, a 32-bit state a lane, 16-bit words
    … + INVERTED    the same, where False is the rarer
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.types import BoolTensor
from fedprune.wire.reading import Reader, WireError, unpack, varint

GAPS = 4  # the least form that is coded gaps; the lesser ones are the wire's
_INVERTED, _CODED = 1, 2  # added to GAPS
MAX_POSITIONS = 2**32 - 1  # keeps every sum of gaps below 2⁶³
_TOTAL = 1 << 16  # of the coder's frequencies; also the least state
# A lane costs some ten bits, a step some ten microseconds: about this many steps are cheap in both.
_STEPS = 320
_MAX_STEPS = 16 * _STEPS  # what a decoder accepts, so that no message makes it crawl
# The coder must save this fraction of the bits, and this many, to be worth its time.
_WORTHWHILE = 0.004
_WORTHWHILE_BITS = 512

_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint32]


def _split(size: int, rare: int) -> tuple[int, bool]:
    """(low bits s, whether to entropy-code the unary bits) for ``rare`` of ``size`` positions.

    Estimates by multiplications alone: the choice travels in the message, but equal masks should give equal bytes.
    """
    mean = size / rare
    low_bits, stay = 0, 1 - rare / size  # stay: the probability that a unary bit is 0
    # Rice's best s: one more low bit pays while stay exceeds the golden ratio's inverse.
    while stay > 0.6180339887 and low_bits < 31:
        low_bits, stay = low_bits + 1, stay * stay
    one = 1 - stay
    # Bits a gap loses: the unary bits' distance from fair (1 − H(q) ≈ 2.885 (q − ½)²), and the low bits' from uniform.
    lost = 2.885 * (one - 0.5) ** 2 / one + (0.045 * ((1 << low_bits) / mean) ** 2 if low_bits else 0)
    coded = lost > _WORTHWHILE * (low_bits + 1 / one) and lost * rare > _WORTHWHILE_BITS
    return (max(0, low_bits - 1), True) if coded else (low_bits, False)


def encode_gaps(flat: BoolTensor, kept: int) -> bytes:
    """The message of a flat mask of at most MAX_POSITIONS, ``kept`` of them True: some, not all."""
    inverted = 2 * kept > flat.size
    rare = min(kept, flat.size - kept)
    low_bits, coded = _split(flat.size, rare)
    bits = ~flat if inverted else flat
    low = b""
    if low_bits:
        gaps = np.flatnonzero(bits)
        gaps[1:] -= gaps[:-1] + 1
        ends = np.cumsum((gaps >> low_bits) + 1)
        bits = np.zeros(ends[-1], dtype=np.bool_)
        bits[ends - 1] = True
        low = _pack_low(gaps, low_bits)
    body = np.packbits(bits)
    lanes = max(1, body.size // _STEPS)
    coded = coded and body.size > 2 * lanes
    head = bytes([GAPS + _INVERTED * inverted + _CODED * coded | low_bits << 3]) + varint(rare) + low
    if not coded:
        return head + body.tobytes()
    frequency = _frequencies(rare, bits.size)
    return head + varint(bits.size) + varint(lanes) + _rans_encode(body, lanes, frequency)


def decode_gaps(tag: int, reader: Reader, size: int) -> BoolTensor:
    """The flat mask of ``size`` positions whose message, after its first byte ``tag``, is all that ``reader`` has left.

    Raises WireError on bytes that encode_gaps does not write. Allocates some tens of bytes a position at most.
    """
    low_bits, inverted = tag >> 3, bool(tag & _INVERTED)
    rare = reader.varint()
    if not 0 < rare <= size // 2:
        raise WireError(f"malformed: {rare} of {size} positions cannot be the rarer value")
    low = reader.take(-(-low_bits * rare // 8))
    if tag & _CODED:
        length, lanes = reader.varint(), reader.varint()
        if not rare <= length <= size or (low_bits == 0 and length != size):
            raise WireError(f"malformed: {length} unary bits for {size} positions")
        bits = unpack(_rans_decode(reader.rest(), -(-length // 8), lanes, _frequencies(rare, length)), length)
    else:
        unary = reader.rest()
        length = size if low_bits == 0 else 8 * len(unary)
        if -(-length // 8) != len(unary) or len(unary) > -(-size // 8):
            raise WireError(f"malformed: {len(unary)} bytes of unary bits for {size} positions")
        bits = unpack(unary, length)
    if np.count_nonzero(bits) != rare:
        raise WireError(f"malformed: the unary bits end other than {rare} gaps")
    if low_bits == 0:
        return np.logical_not(bits, out=bits) if inverted else bits
    gaps = np.flatnonzero(bits)
    last = int(gaps[-1])
    if length - last > (1 if tag & _CODED else 8):
        raise WireError("malformed: unary bits go on after the last gap")
    # First in Python's integers: below, a gap too large would overflow.
    beyond = (last + 1 - rare) << low_bits >= size
    if not beyond:
        gaps[1:] -= gaps[:-1] + 1
        gaps <<= low_bits
        gaps += _unpack_low(low, rare, low_bits)
        gaps[1:] += 1
        index = np.cumsum(gaps)
        beyond = index[-1] >= size
    if beyond:
        raise WireError(f"malformed: gaps reach beyond {size} positions")
    flat = np.full(size, inverted)
    flat[index] = not inverted
    return flat


def _low_type(low_bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    return np.dtype(np.uint8 if low_bits <= 8 else np.uint32)


def _pack_low(gaps: npt.NDArray[np.intp], low_bits: int) -> bytes:
    narrow = gaps.astype(_low_type(low_bits))
    bit = np.left_shift(1, np.arange(low_bits)).astype(narrow.dtype)
    return np.packbits(narrow & bit[:, None] != 0).tobytes()  # (low bits, gaps)


def _unpack_low(data: memoryview, count: int, low_bits: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    planes = unpack(data, low_bits * count).view(np.uint8).reshape(low_bits, count)
    low = np.zeros(count, dtype=_low_type(low_bits))
    for bit, plane in enumerate(planes):
        low |= np.left_shift(plane, bit, dtype=low.dtype)
    return low


@functools.cache
def _ones_of_byte() -> npt.NDArray[np.intp]:
    ones: npt.NDArray[np.intp] = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
        axis=1, dtype=np.intp
    )
    return ones


def _frequencies(ones: int, length: int) -> _Words:
    """Frequency of each byte, (256,), at least 1 and in sum 2¹⁶, of independent bits that are 1 in ones / length."""
    zeros, total = length - ones, length**8
    # Python's integers: exact, hence the same on both sides.
    by_ones = [max(1, (ones**c * zeros ** (8 - c) * _TOTAL) // total) for c in range(9)]
    frequency = np.array(by_ones, dtype=np.int64)[_ones_of_byte()]
    # Rounding leaves a few over or short: the likeliest byte (at least 2⁸) bears them.
    frequency[255 if ones > zeros else 0] += _TOTAL - int(frequency.sum())
    return frequency.astype(np.uint32)


def _rans_encode(symbols: _Bytes, lanes: int, frequency: _Words) -> bytes:
    # The first 2 · lanes bytes ride in the first states, which would else be 16 wasted bits each.
    state = symbols[: 2 * lanes].view("<u2").astype(np.uint32) | np.uint32(_TOTAL)
    coded = symbols[2 * lanes :].astype(np.intp)
    begin, width = (np.cumsum(frequency) - frequency).astype(np.uint32)[coded], frequency[coded]
    gain = np.uint32(_TOTAL) - width
    words: list[_Words] = []
    # Backwards: a decoder meets last what went in first.
    for start in range((coded.size - 1) // lanes * lanes, -1, -lanes):
        at = slice(start, start + lanes)
        x = state[: coded.size - start]
        high = x >> 16
        full = high >= width[at]
        words.append(x[full])
        np.copyto(x, high, where=full)
        x += x // width[at] * gain[at] + begin[at]  # = (x // width) · 2¹⁶ + x mod width + begin
    return state.astype("<u4").tobytes() + np.concatenate(words[::-1]).astype("<u2").tobytes()


def _rans_decode(data: memoryview, count: int, lanes: int, frequency: _Words) -> _Bytes:
    """The ``count`` bytes that _rans_encode coded; WireError where ``data`` is not their code."""
    coded = count - 2 * lanes
    if lanes == 0 or not 0 < coded <= _MAX_STEPS * lanes or len(data) < 4 * lanes or len(data) % 2:
        raise WireError(f"malformed: {count} bytes coded in {lanes} lanes and {len(data)} bytes")
    # int64: what numpy indexes with, so that no step converts.
    state = np.frombuffer(data, "<u4", lanes).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
    byte_of_slot = np.repeat(np.arange(256, dtype=np.uint8), frequency)
    width = frequency.astype(np.int64)
    offset_of_slot = np.arange(_TOTAL) - (np.cumsum(width) - width)[byte_of_slot]
    entry = width[byte_of_slot] << 16 | offset_of_slot  # one look-up a step
    slots = np.empty(coded, dtype=np.uint16)
    read = 0
    for start in range(0, coded, lanes):
        x = state[: coded - start]
        slot = x & 0xFFFF
        slots[start : start + lanes] = slot
        found = entry[slot]
        x >>= 16
        x *= found >> 16
        x += found & 0xFFFF
        low = (x < _TOTAL).nonzero()[0]
        end = read + low.size
        if end > words.size:
            raise WireError("truncated: entropy-coded bits end early")
        x[low] = x[low] << 16 | words[read:end]
        read = end
    if read != words.size or (state >> 16 != 1).any():
        raise WireError("malformed: entropy-coded bits do not end as they began")
    return np.concatenate([state.astype("<u2").view(np.uint8), byte_of_slot[slots]])
