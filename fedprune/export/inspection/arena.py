"""The arena that TensorFlow Lite Micro will need for a file as it is, weights behind DECODE or not."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator
from fedprune.export.litert.reader import operator_name
from fedprune.export.tflm.decode import DECODE, weight_of
from fedprune.export.tflm.memory import arena_bytes

# Operators whose share of the arena was measured; others may ask for memory of their own.
_WINDOWS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "TRANSPOSE_CONV",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "MEAN",
)
_ELEMENTS = ("ADD", "MUL", "RELU", "RELU6", "HARD_SWISH", "LOGISTIC", "TANH", "SOFTMAX")
_MOVES = ("CONCATENATION", "PAD", "PADV2", "RESHAPE", "STRIDED_SLICE", DECODE)
_KNOWN = frozenset((*_WINDOWS, *_ELEMENTS, *_MOVES))
_MOST = 2_000  # operators: the planner's time grows with their square

# A FULLY_CONNECTED takes what a convolution takes, and for its channels only where each has a scale.
_LINEAR_BYTES = 36
_CHANNEL_BYTES = 8


def arena(file: File) -> int | None:
    """Return the predicted arena of a file, in bytes, as `fedprune.export.tflm.memory.arena_bytes` counts.

    None where it is not known: for activations other than int8, scalars, sparse tensors, and operators never measured.
    """
    made = {*file.inputs, *(index for operator in file.operators for index in operator.outputs)}
    whole = all(file.tensors[index].dtype == np.int8 and file.tensors[index].shape for index in made)
    sparse = any(tensor.sparsity is not None for tensor in file.tensors)
    whole = whole and all(operator.outputs for operator in file.operators)
    names = {operator_name(operator) for operator in file.operators}
    if not whole or sparse or len(file.operators) > _MOST or not names <= _KNOWN:
        return None
    dense, decoded = _dense(file)
    weights = [weight_of(dense, operator) for operator in dense.operators]
    if any(weights.count(index) != 1 for index in decoded):
        return None
    return arena_bytes(dense, [weights.index(index) for index in decoded]) + _linear_bytes(dense)


def _dense(file: File) -> tuple[File, list[int]]:
    """Return the file before its weights went behind DECODE, and which tensors they are. Values are all zero."""
    packed = [operator for operator in file.operators if operator_name(operator) == DECODE]
    outputs = {operator.output for operator in packed}
    others = [operator for operator in file.operators if operator.output not in outputs]
    gone = {index for operator in packed for index in operator.inputs}
    gone -= {*file.outputs, *(index for operator in others for index in operator.inputs)}
    left = [index for index in range(len(file.tensors)) if index not in gone]
    places = {index: place for place, index in enumerate(left)}
    tensors = [
        replace(tensor, data=np.broadcast_to(np.int8(0), tensor.shape)) if index in outputs else tensor
        for index, tensor in enumerate(file.tensors)
        if index not in gone
    ]
    operators = [_moved(operator, places) for operator in others]
    inputs, ends = (tuple(places[index] for index in each) for each in (file.inputs, file.outputs))
    return File(tensors, operators, inputs, ends), [places[index] for index in outputs]


def _moved(operator: FileOperator, places: Mapping[int, int]) -> FileOperator:
    given = tuple(places[index] for index in operator.inputs if index >= 0)
    return replace(operator, inputs=given, output=places[operator.output])


def _linear_bytes(file: File) -> int:
    total = 0
    for operator in file.operators:
        if operator_name(operator) == "FULLY_CONNECTED":
            counts = [
                len(scales) for index in operator.inputs[1:2] if (scales := file.tensors[index].scales) is not None
            ]
            total += _LINEAR_BYTES + sum(_CHANNEL_BYTES * count for count in counts if count > 1)
    return total
