"""Weights of few values in a file: indices into tables of values, which TensorFlow Lite Micro's DECODE looks up."""

from typing import NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import FileTensor
from fedprune.types import Tensor

_MOST_BITS = 7
_MOST_CHANNELS = 2**15  # more than kernels take; each is given room for every value here
_SHARED = 15  # in the place of the axis whose positions have a table each


class Lookup(NamedTuple):
    """The two inputs of a DECODE operator of the kind LUT, uint8."""

    indices: Tensor
    """``k`` bits a weight, the most significant first, the weights one after the other."""
    tables: Tensor
    """The operator's header of 16 bytes, then the tables, all of one length."""


def lookup(weight: FileTensor) -> Lookup | None:
    """Return the shortest form of an int8 weight as indices; None if its values are too many for 7 bits.

    One table serves all output channels, or each has its own: then more values take fewer bits. The header is
    ``[0, 1, 0, 0, 1, 16 axis + k, table length, 0 …]``, with 15 for the axis and 0 for the length where the table is
    shared. The format goes by the axis, interpreters of today by the scales of the output, of which a weight has one a
    channel: with a length of 0 every channel's table begins where the only one does.
    """
    assert weight.data is not None
    levels = np.asarray(weight.data, np.int8)
    size = levels.shape[weight.axis]
    along = [-1 if axis == weight.axis else 1 for axis in range(levels.ndim)]
    rows = np.broadcast_to(np.arange(size).reshape(along), levels.shape).ravel()
    forms = [_form(levels.ravel(), np.zeros_like(rows), _SHARED)]
    if size > _MOST_CHANNELS:
        return None
    if weight.scales is not None and len(weight.scales) == size > 1:
        forms.append(_form(levels.ravel(), rows, weight.axis))
    elif weight.axis:
        return None  # the decoder takes channels along the last axis only if there are several
    return min((form for form in forms if form is not None), key=_length, default=None)


def _length(form: Lookup) -> int:
    return len(form.indices) + len(form.tables)


def _form(levels: Tensor, rows: Tensor, axis: int) -> Lookup | None:
    present = np.zeros((rows.max() + 1, 256), bool)
    present[rows, levels.astype(np.intp) + 128] = True
    longest = int(present.sum(axis=1).max())
    bits = max((longest - 1).bit_length(), 1)
    if bits > _MOST_BITS:
        return None
    ranks = present.cumsum(axis=1) - 1
    tables = np.zeros((len(present), longest), np.int8)
    row, value = np.nonzero(present)
    tables[row, ranks[row, value]] = value - 128
    indices = ranks[rows, levels.astype(np.intp) + 128]
    binary = indices[:, None] >> np.arange(bits)[::-1] & 1
    header = bytes((0, 1, 0, 0, 1, axis << 4 | bits, 0 if axis == _SHARED else longest)) + bytes(9)
    return Lookup(np.packbits(binary.astype(bool)), np.frombuffer(header + tables.tobytes(), np.uint8))
