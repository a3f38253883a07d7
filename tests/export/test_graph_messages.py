"""A graph that crosses the link computes the same, to the bit."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from export_nets import NETS, made
from torch import nn

from fedprune import graph as graphs
from fedprune import wire
from fedprune.graph.message import from_message, to_message


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


def foreign(**changes: object) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """A graph's message with one key of its first convolution changed, or, by ``graph_KEY``, of the graph itself."""
    model, inputs = made(NETS[0])
    values, tensors = to_message(graphs.trace(model, inputs))
    plain = msgspec.json.decode(msgspec.json.encode(values))
    for key, value in changes.items():
        table = plain if key.startswith("graph_") else plain["operations"][0]
        table[key.removeprefix("graph_")] = value
    return plain, dict(tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "Conv3d"}, {"kind": ["Conv2d"]}, {"kind": "Linear"}, {"inputs": "x"}, {"inputs": ["nowhere"]},
        {"inputs": []}, {"output": 3}, {"stride": [0, 1]}, {"stride": [1.5, 1]}, {"stride": [2**70, 1]},
        {"padding": [[2**31, 2**31], [1, 1]]}, {"padding": [[-9, 0], [1, 1]]}, {"padding": [1, 1]},
        {"dilation": [2**63, 1]}, {"groups": 0}, {"groups": 2}, {"bounds": {"bounds": ["a", None]}}, {"bounds": None},
        {"bounds": {}}, {"weight": None}, {"weight": {"nom": "x"}}, {"more": 1}, {"graph_operations": 3},
        {"graph_operations": [3]}, {"graph_outputs": ["nowhere"]}, {"graph_input": "nowhere"}, {"graph_shapes": {}},
        {"graph_shapes": [[1]]}, {"graph_operations": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_foreign_graph_is_refused_before_it_runs(changes: dict[str, object]) -> None:
    from_message(*foreign())
    with pytest.raises(ValueError, match="not a graph: "):
        from_message(*foreign(**changes))


@pytest.mark.parametrize("of", [lambda a: a[:1], lambda a: a.astype(np.float64), lambda a: a.reshape(-1)])
def test_foreign_weights_are_refused(of: Callable[[np.ndarray], np.ndarray]) -> None:
    values, tensors = foreign()
    for name, value in tensors.items():
        if value.ndim > 1:
            with pytest.raises(ValueError, match="not a graph: "):
                from_message(values, {**tensors, name: of(value)})


def test_a_graph_that_would_take_gigabytes_is_refused() -> None:
    shapes = {"x": (1, 1, 8, 8), "y": (1, 1, 2**14, 2**14)}
    pad = {"kind": "Pad", "inputs": ["x"], "output": "y", "padding": [[0, 0], [0, 0], [0, 2**14 - 8], [0, 2**14 - 8]]}
    with pytest.raises(ValueError, match="too many values"):
        from_message({"input": "x", "outputs": ["y"], "operations": [pad], "shapes": shapes}, {})
