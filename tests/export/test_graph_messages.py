"""A graph that crosses the link computes the same, to the bit."""

import msgspec
import numpy as np
import pytest
from export_nets import NETS, made
from torch import nn

from fedprune import graph as graphs
from fedprune import wire
from fedprune.federated.graphs import from_message, to_message


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("rewrite", [graphs.inference, lambda graph: graph])
def test_a_graph_returns_from_its_message(kind: type[nn.Module], rewrite: object) -> None:
    model, inputs = made(kind)
    graph = rewrite(graphs.trace(model, inputs))  # type: ignore[operator]
    values, tensors = to_message(graph)
    back = from_message(msgspec.json.decode(msgspec.json.encode(values)), wire.decode(wire.encode(tensors)))
    assert (back.input, back.outputs, back.shapes) == (graph.input, graph.outputs, graph.shapes)
    for mine, theirs in zip(graph.operations, back.operations, strict=True):
        assert type(mine) is type(theirs)
        plain = {key: value for key, value in vars(mine).items() if not isinstance(value, graphs.Parameter)}
        assert plain == {key: value for key, value in vars(theirs).items() if not isinstance(value, graphs.Parameter)}
    assert [one.name for op in graph.operations for one in graphs.parameters(op)] == [
        one.name for op in back.operations for one in graphs.parameters(op)
    ]
    expected, found = graphs.run(graph, inputs.numpy()), graphs.run(back, inputs.numpy())
    assert list(expected) == list(found)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
