"""Working memory of an inference: the most that activations take at once."""

from math import prod

from fedprune.graph import Graph


def arena_bytes(graph: Graph, element_bytes: int = 1) -> int:
    """Peak over the operations, in their order, of all live tensors, for a batch of one.

    A tensor lives from the operation that makes it (the input from the start) to its last reader (an output to the
    end). Elements have one byte in an int8 model, four in a float32 one. Weights and kernels' scratch are left out;
    the graph is that of `fedprune.graph.inference`.
    """
    sizes = {name: prod(shape) * element_bytes for name, shape in graph.shapes.items()}
    last = {name: place for place, op in enumerate(graph.operations) for name in op.inputs}
    last.update(dict.fromkeys(graph.outputs, len(graph.operations)))
    live = {graph.input}
    peak = sizes[graph.input]
    for place, op in enumerate(graph.operations):
        live.add(op.output)
        peak = max(peak, sum(sizes[name] for name in live))
        live = {name for name in live if last.get(name, -1) > place}
    return peak
