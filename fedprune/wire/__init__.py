"""Sparse tensors and masks <-> bytes: a self-describing container of named tensors, each in its smallest form.

A container is a version byte, the number of tensors, and for each: name, type | form << 4, number of dimensions,
dimensions, length of the payload, payload. Payloads by form:
    DENSE    little-endian values in C order; of a boolean tensor, its mask code
    SPARSE   length of a mask code, the mask code of the values whose bits are not all 0, these values
    KNOWN    CRC-32 of the mask that both sides hold, then the values under it as DENSE
A mask code is a byte that says its form, then:
    EMPTY, FULL   nothing
    BITMAP        the bits, first position in the highest bit of a byte
    SEED          seed, name, number kept
    GAPS          see mask_code
    PATTERN       see pattern_code
Counts are LEB128 varints, names UTF-8 after their length. Nothing is pickled, and every value keeps its bits.
"""

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fedprune.counter_rng import uniforms
from fedprune.lazy import Lazy, shrunk
from fedprune.pruning.topk import top_k
from fedprune.types import BoolTensor, Masks, Params, Tensor
from fedprune.wire.mask_code import GAPS, MAX_POSITIONS, decode_gaps, encode_gaps
from fedprune.wire.pattern_code import PATTERN, decode_pattern, encode_pattern
from fedprune.wire.reading import Reader, WireError, text, unpack, varint

__all__ = ["FRAME", "WireError", "decode", "decode_mask", "encode", "encode_mask", "opened", "seed_mask"]

VERSION = 1
_EMPTY, _FULL, _BITMAP, _SEED = 0, 1, 2, 3
_DENSE, _SPARSE, _KNOWN = 0, 1, 2
# A type's place in this list is its code on the wire: append only.
_TYPES = [np.dtype(c) for c in ("?", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")]
_MAX_DIMENSIONS = 32  # numpy 1's limit
FRAME = 128
"""What each tensor counts besides its own bytes and its name's where they are bounded: many empty ones cost too."""
_NONE: Mapping[str, Any] = {}
_Make = Callable[[], Tensor]
_Hold = Callable[[BoolTensor], _Make]
"""How a mask is kept until it is asked for."""


def seed_mask(seed: int, name: str, shape: tuple[int, ...], kept: int) -> BoolTensor:
    """The random mask that a seed stands for: the ``kept`` largest of uniforms(seed, name), ties to the first.

    >>> mask = seed_mask(7, "conv.weight", (4, 4), kept=3)
    >>> int(mask.sum()), np.array_equal(mask, seed_mask(7, "conv.weight", (4, 4), kept=3))
    (3, True)
    """
    return top_k(uniforms(seed, name, shape), kept)


def encode_mask(mask: BoolTensor, seed: tuple[int, str] | None = None) -> bytes:
    """The shortest message that holds ``mask``; its shape does not travel.

    With ``seed`` = (seed, name), a mask equal to seed_mask(seed, name, shape, kept) travels as these three.
    Raises WireError where ``mask`` is not boolean, has 2³² positions or more, or the seed is outside [0, 2⁶⁴).

    >>> mask = seed_mask(7, "conv", (100, 100), kept=500)
    >>> len(np.packbits(mask)), len(encode_mask(mask)), len(encode_mask(mask, seed=(7, "conv")))
    (1250, 365, 9)
    """
    if mask.dtype != np.bool_:
        raise WireError(f"a mask is boolean, not {mask.dtype}")
    flat = np.ascontiguousarray(mask).reshape(-1)
    size, kept = flat.size, int(np.count_nonzero(flat))
    if size > MAX_POSITIONS:
        raise WireError(f"a mask of {size} positions: at most 2^32 - 1 can be sent")
    if kept == 0:
        return bytes([_EMPTY])
    if kept == size:
        return bytes([_FULL])
    shortest = 1 + -(-size // 8)
    if seed is not None:
        message = bytes([_SEED]) + varint(seed[0]) + text(seed[1]) + varint(kept)
        if len(message) <= shortest and np.array_equal(seed_mask(*seed, (size,), kept), flat):
            return message
    forms = [encode_gaps(flat, kept), encode_pattern(mask, kept)]
    message = min((form for form in forms if form is not None), key=len)
    return message if len(message) < shortest else bytes([_BITMAP]) + np.packbits(flat).tobytes()


def decode_mask(data: bytes | memoryview, shape: tuple[int, ...], max_bytes: int = 2**31) -> BoolTensor:
    """The mask of ``shape`` that encode_mask turned into ``data``, writable.

    Raises WireError on bytes that no mask of this shape gives, and, before allocating, where the mask (or the eight
    bytes a position that drawing it from a seed takes, the sixteen that a pattern may) exceeds ``max_bytes``.

    >>> decode_mask(encode_mask(np.array([[True, False], [False, False]])), (2, 2)).tolist()
    [[True, False], [False, False]]
    """
    size = math.prod(shape)
    reader = Reader(data)
    tag = reader.byte()
    form = tag & 7
    each = 16 if tag == PATTERN else 8 if form == _SEED else 1
    if size > MAX_POSITIONS or size * each > max_bytes:
        raise WireError(f"a mask of {size} positions exceeds the limit of {max_bytes} bytes")
    if tag > 7 and form < GAPS and tag != PATTERN:
        raise WireError(f"malformed: unknown mask form {tag}")
    if tag == PATTERN:
        flat = decode_pattern(reader, shape).reshape(-1)
    elif form >= GAPS:
        flat = decode_gaps(tag, reader, size)
    elif form == _BITMAP:
        flat = unpack(reader.take(-(-size // 8)), size)
    elif form == _SEED:
        number, name, kept = reader.varint(), reader.text(), reader.varint()
        if kept > size:
            raise WireError(f"malformed: {kept} kept of {size} positions")
        flat = seed_mask(number, name, (size,), kept)
    else:
        flat = np.full(size, form == _FULL)
    reader.end()
    return flat.reshape(shape)


def encode(tensors: Mapping[str, Tensor], known: Masks = _NONE, seeds: Mapping[str, tuple[int, str]] = _NONE) -> bytes:
    """One message that holds ``tensors``: boolean, integer or floating, of any shape.

    A tensor named in ``known``, masks that the receiver holds too, travels as its values where its mask is True.
    A boolean tensor named in ``seeds`` travels as that (seed, name) where seed_mask gives it back.
    Raises WireError, naming the tensor, on a type that cannot travel, a known mask of another shape, or a value other
    than ±0 outside its known mask, since it would be lost (a −0 there arrives as +0).

    >>> weights = {"w": np.where(np.arange(100) % 10, 0, 1.5).astype(np.float32)}  # 10 of 100, 40 bytes
    >>> len(encode(weights)), len(encode(weights, known={"w": weights["w"] != 0}))
    (58, 52)
    """
    parts: list[Any] = [bytes([VERSION]), varint(len(tensors))]
    for name in tensors:
        try:
            parts += _framed(name, tensors[name], known.get(name), seeds.get(name))
        except WireError as error:
            raise WireError(f"{error}: {name}") from None
    return b"".join(parts)


def _framed(name: str, tensor: Tensor, known: Tensor | None, seed: tuple[int, str] | None) -> list[Any]:
    form, payload = _encode_tensor(tensor, known, seed)
    code = _TYPES.index(tensor.dtype.newbyteorder("<"))
    shape = b"".join(map(varint, (tensor.ndim, *tensor.shape)))
    return [text(name), bytes([code | form << 4]), shape, varint(sum(map(len, payload))), *payload]


def decode(data: bytes | memoryview, known: Masks = _NONE, max_bytes: int = 2**31) -> dict[str, Tensor]:
    """The tensors of a message in their order, each a writable array of the machine's byte order.

    ``known`` holds the masks of the tensors that were encoded under one; their other positions are 0.
    Raises WireError on bytes that ``encode`` does not write, on an unknown version, on a missing or different known
    mask, and, before allocating, where the tensors, each with its name and a ``FRAME``, would take more than
    ``max_bytes`` together.

    >>> masks = {"w": np.array([False, True, False])}
    >>> decode(encode({"w": np.array([0.0, 1.5, 0.0])}, masks), masks)
    {'w': array([0. , 1.5, 0. ])}
    """
    return {name: make() for name, make in _read(data, known, max_bytes, _as_it_is)}


def opened(data: bytes | memoryview, known: Masks = _NONE, max_bytes: int = 2**31) -> Params:
    """As ``decode``, and refuses what it refuses; but each tensor is made when it is asked for.

    Meanwhile it takes the bytes of its message, and a mask a bit a position, or four bytes for each that is kept.

    >>> opened(encode({"w": np.array([0.0, 1.5, 0.0])}))["w"]
    array([0. , 1.5, 0. ])
    """
    return Lazy(dict(_read(data, known, max_bytes, shrunk)))


def _read(data: bytes | memoryview, known: Masks, max_bytes: int, hold: _Hold) -> Iterator[tuple[str, _Make]]:
    """Each tensor's name and how to make it, once all is checked that could be wrong with it."""
    reader = Reader(data)
    version = reader.byte()
    if version != VERSION:
        raise WireError(f"unknown version {version} of the wire format; this library reads {VERSION}")
    names: set[str] = set()
    left = max_bytes
    for _ in range(reader.varint()):
        name = reader.text()
        try:
            if name in names:
                raise WireError("malformed: a name occurs twice")
            size, make = _read_tensor(reader, name, known, left, hold)
        except WireError as error:
            raise WireError(f"{error}: {name[:80]!r}") from None
        yield name, make
        names.add(name)
        left -= size + len(name) + FRAME
    reader.end()


def _encode_tensor(tensor: Tensor, known: Tensor | None, seed: tuple[int, str] | None) -> tuple[int, list[Any]]:
    """(form, pieces of the payload)."""
    if tensor.dtype.newbyteorder("<") not in _TYPES:
        raise WireError(f"type {tensor.dtype} cannot travel")
    flat = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).reshape(-1)
    if known is not None:
        if known.shape != tensor.shape or known.dtype != np.bool_:
            raise WireError(f"known mask of {known.dtype} {known.shape} for a tensor of {tensor.shape}")
        mask = known.reshape(-1)
        kept = flat[mask]
        if np.count_nonzero(flat) != np.count_nonzero(kept):
            raise WireError("a value outside the known mask is not 0 and would be lost")
        return _KNOWN, [_fingerprint(mask), encode_mask(kept) if flat.dtype == np.bool_ else _bytes(kept)]
    if flat.dtype == np.bool_:
        return _DENSE, [encode_mask(flat.reshape(tensor.shape), seed)]
    # By their bits, since −0 must survive.
    filled = flat.view(f"<u{flat.itemsize}") != 0
    count = int(np.count_nonzero(filled))
    if count < flat.size:
        code = encode_mask(filled.reshape(tensor.shape))
        head = varint(len(code)) + code
        if len(head) + count * flat.itemsize < flat.nbytes:
            return _SPARSE, [head, _bytes(flat[filled])]
    return _DENSE, [_bytes(flat)]


def _read_tensor(reader: Reader, name: str, known: Masks, max_bytes: int, hold: _Hold) -> tuple[int, _Make]:
    """(bytes that the tensor takes, how to make it)."""
    code = reader.byte()
    form = code >> 4
    if code & 15 >= len(_TYPES) or form > _KNOWN:
        raise WireError(f"malformed: unknown type or form {code}")
    dtype = _TYPES[code & 15]
    dimensions = reader.varint()
    if dimensions > _MAX_DIMENSIONS:
        raise WireError(f"malformed: {dimensions} dimensions")
    shape = tuple(reader.varint() for _ in range(dimensions))
    # Zeros count as ones here: numpy refuses a shape like (0, 2⁶⁰) too.
    if math.prod(side or 1 for side in shape) * dtype.itemsize > max_bytes:
        raise WireError(f"{dtype.name} {shape} exceeds the {max_bytes} bytes left of the limit")
    payload = Reader(reader.take(reader.varint()))
    size = math.prod(shape)
    if form == _DENSE:
        values = _values(payload, dtype, shape, max_bytes, hold)
        return size * dtype.itemsize, lambda: values().reshape(shape)
    if form == _KNOWN:
        mask = known.get(name)
        if mask is None:
            raise WireError("sent under a known mask, but none is given")
        if mask.dtype != np.bool_ or mask.shape != shape or bytes(payload.take(4)) != _fingerprint(mask.reshape(-1)):
            raise WireError("sent under another mask than the one given")
        where: _Make = functools.partial(known.__getitem__, name)
    else:
        mask = decode_mask(payload.take(payload.varint()), shape, max_bytes)
        where = hold(mask)
    values = _values(payload, dtype, (int(np.count_nonzero(mask)),), max_bytes, hold)

    def make() -> Tensor:
        flat = np.zeros(size, dtype=dtype.newbyteorder("="))
        flat[where().reshape(-1)] = values()
        return flat.reshape(shape)

    return size * dtype.itemsize, make


def _values(payload: Reader, dtype: np.dtype[Any], shape: tuple[int, ...], max_bytes: int, hold: _Hold) -> _Make:
    """How to make the values of ``shape``, writable, of all that is left of ``payload``."""
    if dtype == np.bool_:
        return hold(decode_mask(payload.rest(), shape, max_bytes))
    data, count = payload.rest(), math.prod(shape)
    if len(data) != count * dtype.itemsize:
        raise WireError(f"malformed: {len(data)} bytes for {count} values of {dtype.name}")
    return lambda: np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))


def _as_it_is(mask: BoolTensor) -> _Make:
    return lambda: mask


def _bytes(flat: Tensor) -> memoryview:
    return flat.view(np.uint8).data


def _fingerprint(mask: BoolTensor) -> bytes:
    """Tells apart masks that differ: a wrong one would put every value in a wrong place, unnoticed."""
    return zlib.crc32(np.packbits(mask).data).to_bytes(4, "little")
