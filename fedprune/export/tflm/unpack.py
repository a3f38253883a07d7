"""What TensorFlow Lite Micro's DECODE would unpack, as constants: for readers that have no such operator."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.export.litert.reader import ModelError
from fedprune.export.tflm.decode import DECODE
from fedprune.types import Tensor

_HEADER_BYTES = 16
_MOST_BYTES = 2**28  # in all: many operators may unpack the same bytes
_ONE_TABLE = 15
"""In place of an axis: the whole tensor has one table of values."""
_Decoder = Callable[[FileTensor, Tensor, Tensor, Tensor], Tensor]


def values(result: FileTensor, encoded: Tensor, ancillary: Tensor, what: str) -> Tensor | None:
    """Return what a DECODE operator unpacks, in the shape and dtype of its ``result``; None for one of another kind.

    ``what`` names the operator in errors. Raises ``ModelError`` where the constants do not fit the result.
    """
    codes, rest = (np.frombuffer(part.tobytes(), np.uint8) for part in (encoded, ancillary))
    if len(rest) < _HEADER_BYTES:
        raise ModelError(f"{what} has no header of {_HEADER_BYTES} bytes")
    decoder = _DECODERS.get(int(rest[0]))
    if decoder is None:
        return None
    try:
        return decoder(result, codes, rest[:_HEADER_BYTES], rest[_HEADER_BYTES:].view(result.dtype))
    except (ValueError, IndexError) as error:
        raise ModelError(f"{what} does not fit the shape {list(result.shape)} that it unpacks") from error


def unpacked(file: File) -> File:
    """Return an equal file without DECODE operators: what they unpack is constant.

    Raises ``ModelError`` for a DECODE that is not of constants, or of a kind that is not known.
    """
    tensors, operators, size = list(file.tensors), [], 0
    for position, operator in enumerate(file.operators):
        if operator.custom != DECODE:
            operators.append(operator)
            continue
        what = f"operator {position} {DECODE!r}"
        parts = [tensors[index].data if index >= 0 else None for index in operator.inputs]
        if len(parts) != 2 or parts[0] is None or parts[1] is None:
            raise ModelError(f"{what} lacks its two constants, encoded values and a header")
        result = tensors[operator.output]
        size += math.prod(result.shape) * result.dtype.itemsize
        if size > _MOST_BYTES:
            raise ModelError(f"{what} and those before it unpack {size} bytes; at most {_MOST_BYTES} will do")
        found = values(result, parts[0], parts[1], what)
        if found is None:
            raise ModelError(f"{what} is of a kind that is not known")
        tensors[operator.output] = replace(result, data=found)
    return _needed(replace(file, tensors=tensors, operators=operators))


def _needed(file: File) -> File:
    # without the tensors that only a DECODE read
    used = {index for op in file.operators for index in (*op.inputs, *op.outputs)} | {*file.inputs, *file.outputs}
    kept = sorted(used - {-1})
    numbers = {index: number for number, index in enumerate(kept)} | {-1: -1}

    def renumbered(indices: Iterable[int]) -> tuple[int, ...]:
        return tuple(numbers[index] for index in indices)

    operators = [
        replace(op, inputs=renumbered(op.inputs), output=numbers[op.output], others=renumbered(op.others))
        for op in file.operators
    ]
    tensors = [file.tensors[index] for index in kept]
    return File(tensors, operators, renumbered(file.inputs), renumbered(file.outputs), file.subgraphs)


def _bits(encoded: Tensor, size: int, width: int) -> Tensor:
    """Return ``(size, width)`` bits; raises ``ValueError`` where there are fewer."""
    if 8 * len(encoded) < size * width:
        raise ValueError(f"{len(encoded)} bytes hold no {size} times {width} bits")
    return np.unpackbits(encoded, count=size * width).reshape(size, width)


def _bitmap(result: FileTensor, encoded: Tensor, header: Tensor, stored: Tensor) -> Tensor:
    kept = _bits(encoded, math.prod(result.shape), 1)[:, 0].astype(bool)
    found = np.full(kept.size, result.zero_point, result.dtype)
    found[kept] = stored[: int(kept.sum())]
    return found.reshape(result.shape)


def _tables(result: FileTensor, encoded: Tensor, header: Tensor, stored: Tensor) -> Tensor:
    width, axis, stride = int(header[5]) & 7, int(header[5]) >> 4, int(header[6])
    bits = _bits(encoded, math.prod(result.shape), width)
    chosen = np.packbits(bits, axis=1)[:, 0].reshape(result.shape) >> (8 - width)
    rows = chosen[None] if axis == _ONE_TABLE else np.moveaxis(chosen, axis, 0)
    tables = stored[None] if axis == _ONE_TABLE else stored[: len(rows) * stride].reshape(len(rows), stride)
    found = np.stack([table[row] for table, row in zip(tables, rows, strict=True)])
    return found[0] if axis == _ONE_TABLE else np.moveaxis(found, 0, axis)


_DECODERS: Mapping[int, _Decoder] = {0: _tables, 2: _bitmap}
