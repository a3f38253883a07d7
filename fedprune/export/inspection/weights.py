"""Weights as a .tflite file stores them: dense, sparse, or behind an operator that unpacks them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import ModelError, operator_name
from fedprune.export.tflm.decode import DECODE
from fedprune.export.tflm.unpack import values
from fedprune.types import Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant, as whoever reads it sees it and as it is stored."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    stored: tuple[Tensor, ...]
    """Values, and all that it takes to unpack them."""
    encoding: str
    """``dense``, ``sparse`` (SparsityParameters), ``DECODE bitmap``, ``DECODE table``, another ``DECODE``."""
    zeros: float | None
    """Fraction of its values that are zero; None where the encoding hides it."""
    kind: str = ""
    """The type's name where numpy has none, ``int4``; then ``stored`` are its bytes."""


def constant(tensor: FileTensor) -> Weight | None:
    """Return a constant tensor as it is stored; None for an activation."""
    if tensor.data is None:
        return None
    if tensor.kind:
        return Weight(tensor.shape, tensor.dtype, (tensor.data,), "dense", None, tensor.kind.lower())
    size = math.prod(tensor.shape)
    # A sparse tensor stores what is left out nowhere.
    zeros = 1 - int(np.count_nonzero(tensor.data != tensor.zero_point)) / size
    places = () if tensor.sparsity is None else (tensor.sparsity.starts, tensor.sparsity.columns)
    return Weight(tensor.shape, tensor.dtype, (tensor.data, *places), "sparse" if places else "dense", zeros)


def unpacked(file: File) -> Mapping[int, Weight]:
    """Return the tensors that operators unpack from constants alone: by DECODE, DENSIFY or DEQUANTIZE.

    Raises ``ModelError`` for a DECODE whose constants do not fit what it gives.
    """
    found: dict[int, Weight] = {}
    for position, operator in enumerate(file.operators):
        if operator.output < 0:  # one that only sets variables, perhaps of a graph without tensors
            continue
        name, result = operator_name(operator), file.tensors[operator.output]
        if name == DECODE:
            found[operator.output] = _decoded(file, operator, f"operator {position} {DECODE!r}")
        elif name in ("DENSIFY", "DEQUANTIZE") and len(operator.inputs) == 1 and operator.inputs[0] >= 0:
            source = operator.inputs[0]
            packed = found.get(source) or constant(file.tensors[source])
            if packed is not None:
                found[operator.output] = replace(packed, shape=result.shape, dtype=result.dtype)
    return found


def _decoded(file: File, operator: FileOperator, what: str) -> Weight:
    result = file.tensors[operator.output]
    sources = [file.tensors[index].data for index in operator.inputs if index >= 0]
    stored = tuple(source for source in sources if source is not None)
    if len(operator.inputs) != 2 or len(stored) != 2:
        raise ModelError(f"{what} lacks its two constants, encoded values and a header")
    found = values(result, stored[0], stored[1], what)
    if found is None:
        return Weight(result.shape, result.dtype, stored, "DECODE", None)
    zeros = 1 - int(np.count_nonzero(found != result.zero_point)) / math.prod(result.shape)
    encoding = "DECODE table" if stored[1].reshape(-1).view(np.uint8)[0] == 0 else "DECODE bitmap"
    return Weight(result.shape, result.dtype, stored, encoding, zeros)
