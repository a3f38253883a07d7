"""The code of N:M masks: which of the C(M, N) choices each group made, at log₂ C(M, N) bits a group and a little more.

For 2:4, 1:4, 1:8 and 1:16 that is 3 % at most, for 3:13, the worst, 12 %.

A message is the byte PATTERN, the byte M − 1 | (N − 1) << 4, then the groups' choices in words. Groups are those of
`fedprune.pruning.patterns`: M neighbours along the second axis, the inputs, at each place of a kernel; one that is cut
short is filled up, so that it keeps N too. A choice is its place among the M-bit numbers with N bits set, in rising
order. So many choices as fit are the digits, the first the lowest, of a word in base C(M, N): of the one to eight
bytes, little-endian, that waste the least of it. The last word has the bytes that its own digits need.
"""

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.types import BoolTensor
from fedprune.wire.reading import Reader, WireError

PATTERN = 8
"""First byte of a message; no other form of a mask begins with it."""
_MOST = 16  # of M: choices then have a table, and a group's bits a word of 16

_Digits = npt.NDArray[np.unsignedinteger[Any]]


def encode_pattern(mask: BoolTensor, kept: int) -> bytes | None:
    """The message of a mask, ``kept`` of its positions True; None where it is no N:M mask of any M up to 16.

    >>> len(encode_pattern(np.tile([False, False, True, False], (8, 32)), 256) or b"")  # 2 bits for each of 256 groups
    66
    """
    outer, inputs = _sizes(mask.shape)
    if not outer or kept % outer:  # as of most masks, which this costs next to nothing
        return None
    rows = np.ascontiguousarray(np.moveaxis(mask, 1, -1)).reshape(outer, inputs)
    for m in range(2, min(_MOST, inputs) + 1):
        n, (whole, rest) = int(np.count_nonzero(rows[0, :m])), divmod(inputs, m)
        if 0 < n < m and outer * (n * whole + min(n, rest)) == kept and (_filled(rows, n, m).sum(1) == n).all():
            break
    else:
        return None
    words = np.zeros((outer * -(-inputs // m), 2), np.uint8)
    words[:, : -(-m // 8)] = np.packbits(_filled(rows, n, m), axis=1, bitorder="little")
    digits = np.searchsorted(_choices(n, m), words.view("<u2").reshape(-1)).astype(np.uint64)
    return bytes([PATTERN, m - 1 | (n - 1) << 4]) + _packed(digits, math.comb(m, n))


def decode_pattern(reader: Reader, shape: tuple[int, ...]) -> BoolTensor:
    """The mask of ``shape`` whose message, after its first byte, is all that ``reader`` has left.

    Raises WireError on bytes that encode_pattern does not write. Allocates four bytes a position, sixteen at most where
    groups are cut short.

    >>> decode_pattern(Reader(bytes([0x03, 0b1001])), (2, 4)).tolist()  # 1:4, choices 1 and 2
    [[False, True, False, False], [False, False, True, False]]
    """
    both = reader.byte()
    m, n = (both & 15) + 1, (both >> 4) + 1
    outer, inputs = _sizes(shape)
    if not outer or not n < m <= inputs:
        raise WireError(f"malformed: no {n}:{m} mask is of {shape}")
    count, base = outer * -(-inputs // m), math.comb(m, n)
    digits = _unpacked(reader.rest(), count, base)
    if (digits >= base).any():
        raise WireError(f"malformed: a choice beyond the {base} of {n}:{m}")
    words = _choices(n, m)[digits].view(np.uint8).reshape(-1, 2)
    groups = np.unpackbits(words, axis=1, count=m, bitorder="little").view(np.bool_)
    rows = groups.reshape(outer, -1)[:, :inputs]
    if inputs % m and not np.array_equal(_filled(rows, n, m), groups):
        raise WireError(f"malformed: {n}:{m} choices outside {shape}")
    return np.ascontiguousarray(np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1))


def _sizes(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows of inputs, inputs of each) of a mask; none where it has no second axis."""
    inputs = shape[1] if len(shape) > 1 else 0
    return math.prod(shape) // inputs if inputs else 0, inputs


def _filled(rows: BoolTensor, n: int, m: int) -> BoolTensor:
    """(groups, M): the rows' groups, the last of each filled up to keep N where it is too short for that."""
    rest = -rows.shape[1] % m
    if rest:
        more = np.zeros((len(rows), rest), np.bool_)
        more[:, : max(0, n - (m - rest))] = True
        rows = np.concatenate([rows, more], axis=1)
    return rows.reshape(-1, m)


@functools.cache
def _choices(n: int, m: int) -> npt.NDArray[np.uint16]:
    words = np.arange(1 << m)
    ones = (words[:, None] >> np.arange(m) & 1).sum(1)
    found: npt.NDArray[np.uint16] = words[ones == n].astype("<u2")
    return found


@functools.cache
def _word(base: int) -> tuple[int, int]:
    """(digits, bytes) of the word that wastes the least."""
    fits = [(_most_digits(base, size), size) for size in range(1, 9)]
    return min((each for each in fits if each[0]), key=lambda each: (each[1] / each[0], each[1]))


def _most_digits(base: int, size: int) -> int:
    digits = 0
    while base ** (digits + 1) <= 256**size:
        digits += 1
    return digits


def _bytes_of(digits: int, base: int) -> int:
    return -(-int(base**digits - 1).bit_length() // 8)


def _packed(digits: _Digits, base: int) -> bytes:
    each, size = _word(base)
    padded = np.zeros(-(-len(digits) // each) * each, np.uint64)
    padded[: len(digits)] = digits
    words = np.zeros(len(padded) // each, "<u8")
    for column in padded.reshape(-1, each).T[::-1]:
        words = words * np.uint64(base) + column
    content = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size].tobytes()
    last = len(digits) % each
    return content[: len(content) - size + _bytes_of(last, base)] if last else content


def _unpacked(data: memoryview, count: int, base: int) -> _Digits:
    each, size = _word(base)
    whole, last = divmod(count, each)
    if len(data) != whole * size + _bytes_of(last, base) * (last > 0):
        raise WireError(f"malformed: {len(data)} bytes for {count} choices of {base}")
    content = np.zeros((whole + (last > 0)) * size, np.uint8)
    content[: len(data)] = np.frombuffer(data, np.uint8)
    words = np.zeros((len(content) // size, 8), np.uint8)
    words[:, :size] = content.reshape(-1, size)
    left = words.view("<u8").reshape(-1).astype(np.uint64)
    digits = np.zeros((len(left), each), np.uint16)  # C(16, 8) is below 2¹⁴
    for at in range(each):
        digits[:, at] = left % np.uint64(base)
        left //= np.uint64(base)
    if left.any() or digits.reshape(-1)[count:].any():
        raise WireError("malformed: a word holds more than its choices")
    return digits.reshape(-1)[:count]
