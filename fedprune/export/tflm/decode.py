"""Weights packed in a file, as a bitmap and the values left or as indices, which TensorFlow Lite Micro unpacks."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
from fedprune.export.tflm.lookup import lookup
from fedprune.types import Tensor

DECODE = "TFLM_DECODE"
"""The custom operator's name."""

LAYER_BYTES = 124
"""What a layer behind DECODE adds to a file besides its packed weights, measured: header, operator, tensors."""
FIRST_BYTES = 96
"""What the first such layer adds beyond that: the operator's name and code."""

HEADER_BYTES = 16
"""Of what it takes to decode a weight, the part that says how; in `LAYER_BYTES`."""

_CUSTOM = 32
_PRUNING = bytes((2, 1, 0, 0, 1)) + bytes(
    HEADER_BYTES - 5
)  # decoder, its header's version, two reserved, its own version, reserved


def saved_bytes(size: int, kept: int) -> int:
    """Return how many bytes shorter a file is with a layer of ``size`` int8 weights, ``kept`` not zero, behind DECODE.

    ``size - ceil(size / 8) - kept - LAYER_BYTES``; negative where the dense layer is shorter.
    """
    return size - -(-size // 8) - kept - LAYER_BYTES


def flash_bytes(dense_file: int, sizes: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """Return the predicted length of what `write_sparse` writes, in bytes, each layer dense where that is shorter.

    The file may be shorter still: weights of few values take fewer bytes as indices, which counts alone cannot tell.

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
    """Return the index of a convolution's weight, its one constant of four dimensions; None of other operators."""
    if operator_name(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return None
    found = (index for index in operator.inputs if index >= 0 and file.tensors[index].data is not None)
    return next((index for index in found if len(file.tensors[index].shape) == 4), None)


def behind_decode(file: File, chosen: Collection[int]) -> File:
    """Return an int8 file with the weights of the operators at the positions ``chosen`` behind DECODE, packed.

    Each is decoded just before it is used, into the arena, where it stays no longer.
    """
    tensors, operators = list(file.tensors), []
    for position, operator in enumerate(file.operators):
        weight = weight_of(file, operator) if position in chosen else None
        if weight is not None:
            dense = file.tensors[weight]
            encoded, ancillary = packed(dense)
            tensors[weight] = FileTensor(encoded.shape, encoded.dtype, encoded)
            tensors += [FileTensor(ancillary.shape, ancillary.dtype, ancillary), replace(dense, data=None)]
            decoded = len(tensors) - 1
            operators.append(FileOperator(_CUSTOM, 1, (weight, decoded - 1), decoded, None, 0, DECODE))
            inputs = tuple(decoded if index == weight else index for index in operator.inputs)
            operator = replace(operator, inputs=inputs)
        operators.append(operator)
    return replace(file, tensors=tensors, operators=operators)


def packed(weight: FileTensor) -> tuple[Tensor, Tensor]:
    """Return an int8 weight as DECODE takes it, uint8: encoded, and what it takes to decode it, after a header.

    It is a bitmap and the values that are not zero, or indices into tables, whichever is shorter.
    """
    assert weight.data is not None
    levels = np.asarray(weight.data, np.int8).ravel()
    values = levels[levels != 0].tobytes()
    forms = [(np.packbits(levels != 0), np.frombuffer(_PRUNING + values, np.uint8))]
    if found := lookup(weight):
        forms.append(found)
    return min(forms, key=lambda form: sum(map(len, form)))


def gain_bytes(weight: FileTensor) -> int:
    """Return how many bytes shorter a file is with an int8 weight behind DECODE; negative where it is longer."""
    assert weight.data is not None
    return weight.data.size + HEADER_BYTES - LAYER_BYTES - sum(map(len, packed(weight)))
