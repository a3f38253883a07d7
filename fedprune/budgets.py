"""Costs of a model, read from its graph: theoretical counts, never to be mixed with measured ones."""

from fedprune.graph import Conv2d, Graph, Linear


def macs(graph: Graph) -> int:
    """Multiply-adds of one dense inference, of convolutions and linear layers alone."""
    total = 0
    for op in graph.operations:
        if isinstance(op, Conv2d):
            _, _, rows, columns = graph.shapes[op.output]
            total += op.weight.value.size * rows * columns
        elif isinstance(op, Linear):
            total += op.weight.value.size
    return total
