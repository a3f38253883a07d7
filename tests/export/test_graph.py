"""The traced graph is the model: to the float, through every rewrite, and where it cannot be, it says which line."""

import numpy as np
import pytest
import torch
from export_nets import NETS, Branches, Plain, Residual, made
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from fedprune import graph as graphs
from fedprune.graph import RELU, BatchNorm, Clip, Conv2d, Graph, MaxPool, Pad, UnsupportedOperation


def outputs(graph: Graph, inputs: torch.Tensor) -> np.ndarray:
    return graphs.run(graph, inputs.numpy())[graph.outputs[0]]


@pytest.mark.parametrize("kind", NETS)
def test_trace_and_rewrites_keep_the_function(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    expected = model(inputs).detach().numpy()
    traced = graphs.trace(model, inputs)
    for graph in (traced, graphs.fold_batch_norm(traced), graphs.fuse(traced), graphs.inference(traced)):
        np.testing.assert_allclose(outputs(graph, inputs), expected, atol=1e-5)


@pytest.mark.parametrize("kind", NETS)
def test_shapes_are_those_of_the_values_and_order_is_runnable(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    for graph in (graphs.trace(model, inputs), graphs.inference(graphs.trace(model, inputs))):
        values = graphs.run(graph, inputs[:1].numpy())
        assert {name: value.shape for name, value in values.items()} == dict(graph.shapes)


def test_parameters_keep_their_names_and_the_model_its_mode() -> None:
    model, inputs = made(Residual)
    model.train()
    graph = graphs.trace(model, inputs.numpy())
    assert model.training
    held = {parameter.name for op in graph.operations for parameter in graphs.parameters(op)}
    assert held == {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    fused = {op.weight.name for op in graphs.inference(graph).operations if isinstance(op, Conv2d)}
    assert fused == {name for name in held if name.endswith("0.weight")}


def test_inference_graph_has_no_norm_no_lone_activation_no_lone_padding() -> None:
    model, inputs = made(Plain)
    graph = graphs.inference(graphs.trace(model, inputs))
    assert [type(op).__name__ for op in graph.operations] == [
        "Conv2d", "MaxPool", "Conv2d", "MaxPool", "Reshape", "Linear", "Linear",
    ]  # fmt: skip
    assert graph.operations[2].bounds == RELU  # the ReLU after the second pool went through it


def test_padding_goes_into_convolutions_and_norms_after_pools_become_convolutions() -> None:
    model, inputs = made(Branches)
    graph = graphs.inference(graphs.trace(model, inputs))
    assert not any(isinstance(op, Pad | BatchNorm | Clip) for op in graph.operations)
    assert graph.operations[1].padding == ((1, 1), (2, 0))
    assert [op.groups for op in graph.operations if isinstance(op, Conv2d)] == [1, 1, 12, 1, 72]


def test_an_activation_read_by_two_stays_where_it_is() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.relu(y) + y

    torch.manual_seed(0)
    model, inputs = Forked(), torch.randn(3, 2, 4, 4)
    graph = graphs.inference(graphs.trace(model, inputs))
    assert any(isinstance(op, Clip) for op in graph.operations)
    np.testing.assert_allclose(outputs(graph, inputs), model(inputs).detach(), atol=1e-6)


def test_a_weight_computed_from_constants_is_a_constant() -> None:
    class Halved(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * 0.5

    model, inputs = nn.Sequential(nn.Conv2d(2, 3, 3)), torch.randn(2, 2, 5, 5)
    parametrize.register_parametrization(model[0], "weight", Halved())
    graph = graphs.trace(model, inputs)
    (conv,) = graph.operations
    assert isinstance(conv, Conv2d)
    np.testing.assert_array_equal(conv.weight.value, model[0].weight.detach())


def test_an_uncovered_operation_names_itself_and_its_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(x)
            return torch.erfinv(y)  # the culprit

    with pytest.raises(
        UnsupportedOperation, match=r"aten\.erfinv .*test_graph\.py, line \d+.*return torch\.erfinv\(y\)"
    ):
        graphs.trace(Odd(), torch.zeros(1, 4))


@pytest.mark.parametrize(
    ("layer", "shape", "word"),
    [
        (nn.BatchNorm2d(2, track_running_stats=False), (1, 2, 4, 4), "running statistics"),
        (nn.ConvTranspose2d(4, 4, 2, groups=2), (1, 4, 4, 4), "groups"),
        (nn.AdaptiveMaxPool2d(2), (1, 2, 4, 4), "more than one position"),
        (nn.Mish(), (1, 2), "mish"),
        (nn.MaxPool2d(2, 1, dilation=2), (1, 2, 5, 5), "dilated"),
    ],
)
def test_what_has_no_words_is_refused(layer: nn.Module, shape: tuple[int, ...], word: str) -> None:
    with pytest.raises(UnsupportedOperation, match=word):
        graphs.trace(layer, torch.zeros(shape))


@settings(max_examples=12, deadline=None)
@given(
    size=st.integers(3, 9), kernel=st.integers(1, 3), stride=st.integers(1, 3), padding=st.integers(0, 1),
    ceil=st.booleans(),
)  # fmt: skip
def test_max_pools_of_any_window(size: int, kernel: int, stride: int, padding: int, ceil: bool) -> None:
    model = nn.MaxPool2d(kernel, stride, min(padding, kernel // 2), ceil_mode=ceil)
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
    graph = graphs.trace(model, inputs)
    assert isinstance(graph.operations[0], MaxPool)
    np.testing.assert_array_equal(outputs(graph, inputs), model(inputs))


def test_inputs_of_another_size_are_refused() -> None:
    model, inputs = made(Plain)
    with pytest.raises(ValueError, match="do not fit"):
        graphs.run(graphs.trace(model, inputs), inputs[:, :, :8].numpy())
