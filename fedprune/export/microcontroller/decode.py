"""Weights with zeros in a file: a bitmap and the values left, which TensorFlow Lite Micro's DECODE unpacks."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.types import Tensor

DECODE = "TFLM_DECODE"
"""The custom operator's name."""

LAYER_BYTES = 124
"""What a layer behind DECODE adds to a file besides bitmap and values, measured: header, operator, tensors."""
FIRST_BYTES = 96
"""What the first such layer adds beyond that: the operator's name and code."""

_CUSTOM = 32
_PRUNING = bytes((2, 1, 0, 0, 1)) + bytes(11)  # decoder, its header's version, two reserved, its own version, reserved


def saved_bytes(size: int, kept: int) -> int:
    """Return how many bytes shorter a file is with a layer of ``size`` int8 weights, ``kept`` not zero, behind DECODE.

    ``size - ceil(size / 8) - kept - LAYER_BYTES``; negative where the dense layer is shorter.
    """
    return size - -(-size // 8) - kept - LAYER_BYTES


def flash_bytes(dense_file: int, sizes: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """Return the predicted length of what `write_sparse` writes, in bytes, each layer dense where that is shorter.

    Args:
        dense_file: length of the same model's dense int8 file, whatever its weights.
        sizes: weight -> how many values it has; a layer that is not named is dense. With a limit on SRAM, name those
            of `decoded`.
        kept: weight -> how many of them are not zero once rounded to int8; a layer that is not named keeps
            all.
    """
    gains = [saved_bytes(size, kept.get(name, size)) for name, size in sizes.items()]
    total = sum(gain for gain in gains if gain > 0)
    return dense_file - max(total - FIRST_BYTES, 0)


def weight_of(file: File, operator: FileOperator) -> int | None:
    """Return the index of the operator's weight, the one constant of four dimensions, or None."""
    found = (index for index in operator.inputs if file.tensors[index].data is not None)
    return next((index for index in found if len(file.tensors[index].shape) == 4), None)


def behind_decode(file: File, chosen: Collection[int]) -> File:
    """Return an int8 file with the weights of the operators at the positions ``chosen`` behind DECODE.

    Each is decoded just before it is used, into the arena, where it stays no longer.
    """
    tensors, operators = list(file.tensors), []
    for position, operator in enumerate(file.operators):
        weight = weight_of(file, operator) if position in chosen else None
        if weight is not None:
            dense = file.tensors[weight]
            bits, values = _packed(dense)
            tensors[weight] = FileTensor(bits.shape, bits.dtype, bits)
            tensors += [FileTensor(values.shape, values.dtype, values), replace(dense, data=None)]
            decoded = len(tensors) - 1
            operators.append(FileOperator(_CUSTOM, 1, (weight, decoded - 1), decoded, None, 0, DECODE))
            inputs = tuple(decoded if index == weight else index for index in operator.inputs)
            operator = replace(operator, inputs=inputs)
        operators.append(operator)
    return replace(file, tensors=tensors, operators=operators)


def _packed(weight: FileTensor) -> tuple[Tensor, Tensor]:
    assert weight.data is not None
    levels = np.asarray(weight.data, np.int8).ravel()
    values = levels[levels != 0].tobytes()
    return np.packbits(levels != 0), np.frombuffer(_PRUNING + values, np.uint8)
