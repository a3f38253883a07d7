"""Weights stored without their zeros in a float file, behind DENSIFY operators, where a net has enough of them."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fedprune.export.litert.arranging import arranged
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, Sparsity
from fedprune.export.litert.xnnpack import body as recognised
from fedprune.types import Tensor

LAYER_BYTES = 200
"""Rather more than a layer behind DENSIFY adds to a file besides its values and their places: 165 measured."""


def densified(file: File) -> File:
    """Return the file of a float net with the weights of its 1x1 convolutions stored by rows, without their zeros.

    A DENSIFY operator unpacks each, once, when a runtime loads the model. XNNPACK on aarch64 does not unpack them, but
    multiplies what is left: in the nets of `xnnpack.body`, if more than two thirds of the weights in their 1x1
    convolutions are zeros. Any other file is returned as it is. What the file computes stays the same.
    """
    body = recognised(file)
    if body is None:
        return file
    weights = [_values(file.tensors[file.operators[position].inputs[1]]) for position in body.pointwise]
    kept, size = sum(map(np.count_nonzero, weights)), sum(weight.size for weight in weights)
    return file if 3 * kept >= size else _behind_densify(arranged(file, body))


def by_rows(weight: FileTensor) -> FileTensor:
    """Return a constant with its zeros left out, all its axes but the last as rows (CSR).

    One without any other value keeps its first zero: an empty tensor would be no constant.
    """
    rows = _values(weight).reshape(-1, weight.shape[-1])
    is_kept = rows != 0
    is_kept[0, 0] |= not is_kept.any()
    starts = np.concatenate([[0], np.cumsum(is_kept.sum(axis=1))])
    return replace(weight, data=rows[is_kept], sparsity=Sparsity(starts, np.nonzero(is_kept)[1]))


def whole(stored: FileTensor) -> FileTensor:
    """Return a constant of `by_rows` with its zeros in their places; any other tensor as it is."""
    if stored.sparsity is None:
        return stored
    rows = np.zeros((math.prod(stored.shape[:-1]), stored.shape[-1]), stored.dtype)
    ends = stored.sparsity.starts.astype(np.int64)
    rows[np.repeat(np.arange(len(rows)), ends[1:] - ends[:-1]), stored.sparsity.columns] = _values(stored)
    return replace(stored, data=rows.reshape(stored.shape), sparsity=None)


def _behind_densify(file: File) -> File:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    tensors = list(file.tensors)
    operators: list[FileOperator] = []
    unpacked: dict[int, int] = {}  # stored weight -> the same, unpacked
    for operator in file.operators:
        for index in _weights(file, operator):
            stored = by_rows(file.tensors[index])
            if index not in unpacked and _gain(file.tensors[index], stored) > LAYER_BYTES:
                tensors[index] = stored
                tensors.append(replace(stored, data=None, sparsity=None))
                unpacked[index] = len(tensors) - 1
                operators.append(FileOperator(BuiltinOperator.DENSIFY, 1, (index,), unpacked[index], None, 0))
        operators.append(replace(operator, inputs=tuple(unpacked.get(index, index) for index in operator.inputs)))
    return replace(file, tensors=tensors, operators=operators)


def _weights(file: File, operator: FileOperator) -> Iterator[int]:
    # The classifier, a 1x1 convolution behind the mean, is multiplied whole, but is shorter in the file.
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    if operator.code == BuiltinOperator.CONV_2D and file.tensors[operator.inputs[1]].shape[1:3] == (1, 1):
        yield operator.inputs[1]


def _gain(dense: FileTensor, stored: FileTensor) -> int:
    assert stored.sparsity is not None
    return _values(dense).nbytes - _values(stored).nbytes - stored.sparsity.nbytes


def _values(tensor: FileTensor) -> Tensor:
    return np.asarray(tensor.data, tensor.dtype)
