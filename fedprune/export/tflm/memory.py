"""The arena TensorFlow Lite Micro will need for a file, laid out as its own planner does, without running it."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
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
    persistent = (
        _FOR_ALL
        + sum(map(_persistent, (file, *file.subgraphs)))
        + (2 * _PER_TENSOR + _PER_OPERATOR + _PER_DECODE) * len(decoded)
    )
    activations, steps = _activations(file)
    unpacked = [Buffer(_size(constants[at].shape), 2 * steps[at], 2 * steps[at] + 1) for at in decoded]
    return persistent + planned([*activations, *unpacked])


def _persistent(graph: File) -> int:
    convolutions = [operator for operator in graph.operators if weight_of(graph, operator) is not None]
    transposed = [operator for operator in graph.operators if operator_name(operator) == "TRANSPOSE_CONV"]
    channels = sum(graph.tensors[operator.output].shape[-1] for operator in (*convolutions, *transposed))
    return (
        _PER_TENSOR * len(graph.tensors)
        + _PER_OPERATOR * len(graph.operators)
        + _PER_CONVOLUTION * len(convolutions)
        + _PER_CHANNEL * channels
    )


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


def _activations(file: File) -> tuple[list[Buffer], list[int]]:
    """The buffers of all activations, and the step of each operator; what a loop runs has its own steps before it.

    At 2n weights are decoded for step n, at 2n + 1 its operator runs.
    """
    buffers, steps, now = list[Buffer](), list[int](), 0

    def walk(graph: File) -> None:
        nonlocal now
        first = dict.fromkeys(graph.inputs, 2 * now)
        last = dict(first)
        for operator in graph.operators:
            begins = 2 * now + 1
            if graph is file:
                for number in _run_by(operator):  # a loop within a loop is not followed: it might be the same one
                    walk(file.subgraphs[number - 1])
                steps.append(now)
            for index in operator.outputs:
                first.setdefault(index, begins)
            if operator_name(operator) == "TRANSPOSE_CONV":  # adds its windows up in 32 bits
                buffers.append(Buffer(_size((4, *graph.tensors[operator.output].shape)), begins, begins))
            last.update(dict.fromkeys((*operator.inputs, *operator.outputs), 2 * now + 1))
            now += 1
        last.update(dict.fromkeys(graph.outputs, 2 * now))
        buffers.extend(Buffer(_bytes(graph.tensors[index]), first[index], last[index]) for index in sorted(first))

    walk(file)
    return buffers, steps


def _run_by(operator: FileOperator) -> tuple[int, ...]:
    """The subgraphs that an operator runs."""
    if operator_name(operator) != "WHILE":
        return ()
    return int(operator.options.condSubgraphIndex), int(operator.options.bodySubgraphIndex)


def _bytes(tensor: FileTensor) -> int:
    # a file of floats stands for one of int8
    return _size((*tensor.shape, tensor.dtype.itemsize if tensor.dtype.kind == "i" else 1))


def _size(shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT
