"""The range of every tensor of a graph, beside torch's: as traced, and as a file holds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import batch_of, masked
from test_gradients import NETS, convolutions
from torch import nn

from fedprune.graph import Graph, inference, trace
from fedprune.native import library
from fedprune.native.nodes import not_covered
from fedprune.native.ranges import ranges
from fedprune.training import evidence
from fedprune.types import Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


def graphs(model: nn.Module, inputs: Tensor) -> list[Graph]:
    """As traced at rest, after statistics that tell its norms apart; and without norms, activations within layers."""
    with torch.no_grad():
        model.train()(torch.from_numpy(inputs))
    traced = trace(model.eval(), inputs[:1])
    return [traced, inference(traced)]


def held(graph: Graph, inputs: Tensor, examples: int) -> None:
    assert not_covered(graph) is None
    batches = [inputs[first : first + examples] for first in range(0, len(inputs), examples)]
    expected = evidence.ranges(graph, batches)
    found = ranges(graph, iter(batches), examples)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_ranges_of_every_tensor_are_those_of_torch(name: str, density: float) -> None:
    torch.manual_seed(3)
    make, shape, classes = NETS[name]
    model = make()
    masked(model, density)
    inputs = batch_of(shape, classes, 37)[0]
    for graph in graphs(model, inputs):
        for examples in (3, 20, 37):
            held(graph, inputs, examples)


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(2, 19), st.integers(0, 99))
def test_what_lies_around_a_map_is_none_of_its_values(
    net: tuple[nn.Module, tuple[int, ...]], examples: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model, shape = net
    inputs = batch_of(shape, 3, examples, seed)[0] + 3  # zero is then none of the values of the inputs
    for graph in graphs(model, inputs):
        held(graph, inputs, examples)


def test_empty_lanes_count_for_nothing() -> None:
    """A bias shows in a lane that holds no example, and would widen the range."""
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias.fill_(5.0)
    graph = trace(layer.eval(), np.zeros((1, 2), np.float32))
    found = ranges(graph, [np.full((3, 2), 2.0, np.float32)], 8)
    np.testing.assert_array_equal(found, [[0, 2], [0, 1]])


def test_a_tensor_that_holds_no_number_has_no_range() -> None:
    graph = trace(nn.Linear(2, 3).eval(), np.zeros((1, 2), np.float32))
    found = ranges(graph, [np.array([[1, np.nan], [0, 1]], np.float32)], 8)
    assert np.isnan(found).all()


def test_no_batch_at_all_has_the_range_of_zero() -> None:
    graph = trace(nn.Linear(2, 3).eval(), np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(ranges(graph, [], 8), np.zeros((2, 2)))
