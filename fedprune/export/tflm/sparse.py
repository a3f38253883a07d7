"""The int8 file that stores weights packed, without their zeros, and what it will cost before it is written."""

import math
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from fedprune.export.litert import Ranges
from fedprune.export.litert.flatbuffer import File, pack
from fedprune.export.litert.numbers import Numbers, integers
from fedprune.export.litert.rules import lower
from fedprune.export.tflm.decode import FIRST_BYTES, behind_decode, gain_bytes, saved_bytes, weight_of
from fedprune.export.tflm.memory import arena_bytes
from fedprune.graph import Conv2d, Graph, Linear


def write_sparse(graph: Graph, ranges: Ranges, sram_limit_bytes: int | None = None) -> bytes:
    """Return the int8 .tflite of `litert.write_int8`, with weights behind DECODE operators where that is shorter.

    Its outputs are the same bit for bit, in TensorFlow Lite Micro alone: other runtimes have no DECODE. The file is
    never longer than the dense one, and is the dense one if no layer gains.

    A layer's weights are unpacked into the arena while it runs: one of 64 KB takes 64 KB there. With
    ``sram_limit_bytes``, a layer stays dense where the arena, as `sram_bytes` foretells it, would outgrow them.

    Raises as `litert.write_int8`.
    """
    return pack_sparse(lower(graph, integers(graph, ranges)), sram_limit_bytes)


def pack_sparse(file: File, sram_limit_bytes: int | None = None) -> bytes:
    """Return the .tflite of an int8 file, dense or with weights behind DECODE operators, as `write_sparse` chooses.

    Weights that several operators share stay dense, and so does what is not int8.
    """
    users = Counter(index for operator in file.operators for index in operator.inputs)
    gains = {
        at: gain_bytes(file.tensors[index])
        for at, index in _weights(file).items()
        if users[index] == 1 and file.tensors[index].dtype == np.int8
    }
    sparse = behind_decode(file, _chosen(file, gains, sram_limit_bytes))
    return min((pack(file), pack(sparse)), key=len)


def decoded(graph: Graph, kept: Mapping[str, int], sram_limit_bytes: int | None = None) -> frozenset[str]:
    """Return the weights that `write_sparse` would put behind DECODE, by name.

    ``kept`` is, for each weight, how many of its values are not zero once rounded to int8; a weight that is not named
    keeps all. Raises ``UnsupportedOperation`` for a graph that cannot be written.
    """
    file = lower(graph, _any(graph))
    names = _layers(graph, file)
    sizes = {at: math.prod(file.tensors[index].shape) for at, index in _weights(file).items()}
    gains = {at: saved_bytes(sizes[at], kept.get(name, sizes[at])) for at, name in names.items()}
    return frozenset(names[at] for at in _chosen(file, gains, sram_limit_bytes))


def sram_bytes(graph: Graph, decoded: Collection[str] = ()) -> int:
    """Return the predicted arena of the int8 file of a graph, in bytes, with the named weights behind DECODE.

    It is what `run` measures: reference kernels on 64 bits, some 3 % more than on 32. Raises ``UnsupportedOperation``
    for a graph that cannot be written.
    """
    file = lower(graph, _any(graph))
    return arena_bytes(file, [at for at, name in _layers(graph, file).items() if name in decoded])


def _any(graph: Graph) -> Numbers:
    # ranges change what bytes say, not how many there are
    return integers(graph, dict.fromkeys(graph.shapes, (-1.0, 1.0)))


def _chosen(file: File, gains: Mapping[int, int], sram_limit_bytes: int | None) -> frozenset[int]:
    chosen: list[int] = []
    for at in sorted(gains, key=lambda at: -gains[at]):
        fits = sram_limit_bytes is None or arena_bytes(file, [*chosen, at]) <= sram_limit_bytes
        if gains[at] > 0 and fits:
            chosen.append(at)
    return frozenset(chosen) if sum(gains[at] for at in chosen) > FIRST_BYTES else frozenset()


def _layers(graph: Graph, file: File) -> dict[int, str]:
    # Every such operation becomes one operator with a weight, in the same order.
    names = (op.weight.name for op in graph.operations if isinstance(op, Conv2d | Linear))
    return dict(zip(_weights(file), names, strict=True))


def _weights(file: File) -> dict[int, int]:
    """Return the position of each operator that has a weight -> the weight."""
    found = ((at, weight_of(file, operator)) for at, operator in enumerate(file.operators))
    return {at: weight for at, weight in found if weight is not None}
