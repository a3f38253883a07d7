"""Multiply-adds of a model, and the time that training takes a device of known speed."""

from collections.abc import Mapping
from math import prod

from fedprune.graph import Conv2d, Graph, Linear, MatMul, Recurrent, TransposedConv2d


def macs(graph: Graph) -> int:
    """Multiply-adds of one dense inference: of layers with weights, and of products of activations."""
    return sparse_macs(graph, {})


def sparse_macs(graph: Graph, kept: Mapping[str, int]) -> int:
    """Multiply-adds of one inference by kept weights alone: each as often as its layer's output has positions.

    ``kept`` is parameter -> number of kept weights; one left out is dense.
    """
    total = 0
    for op in graph.operations:
        shape = graph.shapes[op.output]
        if isinstance(op, Conv2d | Linear | TransposedConv2d):
            # a transposed convolution uses each weight once a position of its input
            at = graph.shapes[op.inputs[0]] if isinstance(op, TransposedConv2d) else shape
            positions = prod(at[:-1]) if isinstance(op, Linear) else prod(at[2:])
            total += kept.get(op.weight.name, op.weight.value.size) * positions
        elif isinstance(op, MatMul):
            total += prod(shape) * graph.shapes[op.inputs[0]][-1]
        elif isinstance(op, Recurrent):
            weights = (op.weight_ih, op.weight_hh)
            total += shape[1] * sum(kept.get(each.name, each.value.size) for each in weights)
    return total


def seconds(macs: int, examples: int, macs_per_second: float, *, recompute: bool = False, passes: int = 0) -> float:
    """Seconds to train once over ``examples`` with dense kernels: three forward passes each, four with recomputation.

    A method may take so many more ``passes``. ``macs`` are those of one dense inference, ``macs_per_second`` what
    `Profile` measures.
    """
    return ((4 if recompute else 3) + passes) * macs * examples / macs_per_second
