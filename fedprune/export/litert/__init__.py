"""Writing a graph as a .tflite file, float32 or int8, without a converter, and running such files."""

import gzip

from fedprune.export.litert.flatbuffer import pack
from fedprune.export.litert.interpreter import (
    EXTREMES,
    Port,
    Ports,
    all_ports,
    arrange,
    joined,
    noise,
    parts,
    ports,
    quantisation,
    reference,
    results,
    rows,
    run,
)
from fedprune.export.litert.numbers import Floats, integers
from fedprune.export.litert.quantise import Affine, Ranges, calibrate, to_float, to_int8
from fedprune.export.litert.rules import lower
from fedprune.export.litert.sparsity import densified
from fedprune.graph import Graph

__all__ = [
    "EXTREMES",
    "Affine",
    "Port",
    "Ports",
    "Ranges",
    "all_ports",
    "arrange",
    "calibrate",
    "gzip_bytes",
    "noise",
    "joined",
    "parts",
    "ports",
    "quantisation",
    "reference",
    "results",
    "rows",
    "run",
    "to_float",
    "to_int8",
    "write_float",
    "write_int8",
]


def write_float(graph: Graph) -> bytes:
    """Return the float32 .tflite of a graph without batch norms (see `fedprune.graph.inference`).

    Its input is channels last with a batch of one, ``(1, H, W, C)``; a one-dimensional net takes ``(1, 1, L, C)``. A
    vector is ``(1, 1, 1, F)``, the classes among them. A net of tokens takes int32 ``(1, T)``, and a sequence that it
    gives is ``(1, T, C)``.

    A pruned net whose zeros XNNPACK skips on aarch64 has them left out of the file, see `sparsity.densified`.

    Raises ``UnsupportedOperation`` for what the format cannot say.
    """
    dense = lower(graph, Floats())
    sparse = densified(dense)
    return pack(dense) if sparse is dense else min((pack(dense), pack(sparse)), key=len)


def write_int8(graph: Graph, ranges: Ranges) -> bytes:
    """Return the full-integer .tflite of a graph without batch norms: int8 in, int8 out, shaped as in `write_float`.

    ``ranges`` is what `calibrate` found for the same graph. Weights have one scale an output channel, biases are int32.
    Raises as `write_float`, and ``ValueError`` for missing ranges.
    """
    return pack(lower(graph, integers(graph, ranges)))


def gzip_bytes(content: bytes) -> int:
    """Return how many bytes ``content`` takes compressed by gzip, as a download would."""
    return len(gzip.compress(content, 9, mtime=0))
