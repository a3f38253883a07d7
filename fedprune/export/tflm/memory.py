"""The arena TensorFlow Lite Micro will need for a file, laid out as its own planner does, without running it."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.export.tflm.decode import weight_of

# What stays in the arena for the whole run, fitted to the shipped models: within 20 bytes of the interpreter.
_FOR_ALL = 720
_PER_TENSOR = 24
_PER_OPERATOR = 136
_PER_CONVOLUTION = 36
_PER_CHANNEL = 8  # a multiplier and a shift
_PER_DECODE = 24
_ALIGNMENT = 16


class Buffer(NamedTuple):
    """A tensor in the arena: its bytes, and the first and the last step at which it is there."""

    size: int
    first: int
    last: int


def arena_bytes(file: File, decoded: Collection[int] = ()) -> int:
    """Return the arena of an int8 file, in bytes, as TensorFlow Lite Micro's reference kernels on 64 bits would use it.

    ``decoded`` are the positions of the operators of ``file`` whose weights would be put behind DECODE. The file may be
    one of floats: only shapes are read, a byte an element. Other kernels may ask for buffers of their own: CMSIS-NN's
    convolutions for a few kilobytes.
    """
    weights = [(position, weight_of(file, operator)) for position, operator in enumerate(file.operators)]
    constants = {position: file.tensors[weight] for position, weight in weights if weight is not None}
    channels = sum(file.tensors[file.operators[position].output].shape[-1] for position in constants)
    persistent = (
        _FOR_ALL
        + _PER_TENSOR * (len(file.tensors) + 2 * len(decoded))
        + _PER_OPERATOR * (len(file.operators) + len(decoded))
        + _PER_CONVOLUTION * len(constants)
        + _PER_CHANNEL * channels
        + _PER_DECODE * len(decoded)
    )
    unpacked = [Buffer(_size(constants[position].shape), 2 * position, 2 * position + 1) for position in decoded]
    return persistent + planned([*_activations(file), *unpacked])


def planned(buffers: Iterable[Buffer]) -> int:
    """Return the bytes of a layout in which buffers that are there at the same step do not overlap.

    As the greedy planner of TensorFlow Lite Micro: the largest first, each in the first gap; of equals the last first.
    """
    placed: list[tuple[int, Buffer]] = []
    last_first = [*buffers][::-1]
    for buffer in sorted(last_first, key=lambda each: -each.size):
        start = 0
        for offset, other in sorted(placed):
            if other.first > buffer.last or buffer.first > other.last:
                continue
            if offset - start >= buffer.size:
                break
            start = max(start, offset + other.size)
        placed.append((start, buffer))
    return max((offset + buffer.size for offset, buffer in placed), default=0)


def _activations(file: File) -> list[Buffer]:
    # Step 2n is the decoding before operator n, step 2n + 1 the operator itself.
    first = dict.fromkeys(file.inputs, 0)
    last = dict.fromkeys(file.inputs, 0)
    for position, operator in enumerate(file.operators):
        first.setdefault(operator.output, 2 * position + 1)
        last.update(dict.fromkeys((*operator.inputs, operator.output), 2 * position + 1))
    last.update(dict.fromkeys(file.outputs, 2 * len(file.operators)))
    return [Buffer(_bytes(file.tensors[index]), first[index], last[index]) for index in sorted(first)]


def _bytes(tensor: FileTensor) -> int:
    # a file of floats stands for one of int8
    return _size((*tensor.shape, tensor.dtype.itemsize if tensor.dtype.kind == "i" else 1))


def _size(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT
