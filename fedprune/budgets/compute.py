"""Multiply-adds of a model, and the time that training takes a device of known speed."""

from collections.abc import Mapping

from fedprune.graph import Conv2d, Graph, Linear, Recurrent


def macs(graph: Graph) -> int:
    """Multiply-adds of one dense inference, of convolutions, linear and recurrent layers alone."""
    return sparse_macs(graph, {})


def sparse_macs(graph: Graph, kept: Mapping[str, int]) -> int:
    """Multiply-adds of one inference by kept weights alone: each as often as its layer's output has positions.

    ``kept`` is parameter -> number of kept weights; one left out is dense.
    """
    total = 0
    for op in graph.operations:
        if isinstance(op, Conv2d):
            _, _, rows, columns = graph.shapes[op.output]
            total += kept.get(op.weight.name, op.weight.value.size) * rows * columns
        elif isinstance(op, Linear):
            total += kept.get(op.weight.name, op.weight.value.size)
        elif isinstance(op, Recurrent):
            weights = (op.weight_ih, op.weight_hh)
            total += graph.shapes[op.output][1] * sum(kept.get(each.name, each.value.size) for each in weights)
    return total


def seconds(macs: int, examples: int, macs_per_second: float, *, recompute: bool = False, passes: int = 0) -> float:
    """Seconds to train once over ``examples`` with dense kernels: three forward passes each, four with recomputation.

    A method may take so many more ``passes``. ``macs`` are those of one dense inference, ``macs_per_second`` what
    `Profile` measures.
    """
    return ((4 if recompute else 3) + passes) * macs * examples / macs_per_second
