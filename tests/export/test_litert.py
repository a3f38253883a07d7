"""Written .tflite files compute what the model does; their bytes are aligned, inside the file and always the same."""

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from export_nets import NETS, Plain, Residual, Separable, made, signal_to_noise_db
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedprune import graph as graphs
from fedprune.export import litert
from fedprune.export.litert import quantise
from fedprune.graph import UnsupportedOperation


def written_int8(model: nn.Module, inputs: torch.Tensor) -> bytes:
    graph = graphs.inference(graphs.trace(model, inputs))
    return litert.write_int8(graph, litert.calibrate(graph, inputs.numpy()))


def steps(model: bytes, first: np.ndarray, second: np.ndarray) -> float:
    grid = litert.quantisation(model).output.grid
    assert grid is not None
    return float(np.abs(first - second).max() / grid.scale)


@pytest.mark.parametrize("kind", NETS)
def test_float_file_is_the_model(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    file = litert.write_float(graphs.inference(graphs.trace(model, inputs)))
    for reference in (False, True):
        found = litert.run(file, inputs.numpy(), reference=reference)
        np.testing.assert_allclose(found, model(inputs).detach(), atol=1e-4)


@pytest.mark.parametrize("kind", NETS)
def test_int8_file_is_near_the_model_and_kernels_agree(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    file = written_int8(model, inputs)
    plain = litert.run(file, inputs.numpy(), reference=True)
    assert signal_to_noise_db(model(inputs).detach().numpy(), plain) > 20
    # XNNPACK rounds each layer its own way: one step a layer, of which two or three reach the end of these nets.
    assert steps(file, plain, litert.run(file, inputs.numpy())) < 3.5


def test_one_layer_differs_by_at_most_one_step_between_kernels() -> None:
    torch.manual_seed(0)
    for layer in (nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 6, 3, groups=3), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)):
        inputs = torch.randn(32, 3, 8, 8)
        file = written_int8(layer, inputs)
        plain = litert.run(file, inputs.numpy(), reference=True)
        assert steps(file, plain, litert.run(file, inputs.numpy())) < 1.01


def test_quantisation_worked_by_hand() -> None:
    # One 1x1 convolution, y = 2 x0 - x1 / 2 + 1 and y' = x1 / 4, inputs over [-1, 3] and so outputs over [-2.5, 7.5].
    model = nn.Conv2d(2, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -0.5], [0.0, 0.25]]).reshape(2, 2, 1, 1))
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    corners = torch.tensor([[a, b] for a in (-1.0, 3.0) for b in (-1.0, 3.0)]).reshape(4, 2, 1, 1)
    file = written_int8(model, corners)
    ports = litert.quantisation(file)
    assert ports.input.shape == (1, 1, 1, 2)
    assert ports.input.grid == pytest.approx((4 / 255, -64))  # -128 + 1 / (4 / 255) = -64.25
    assert ports.output.grid == pytest.approx((10 / 255, -64))  # -128 + 2.5 / (10 / 255) = -64.25
    parsed = schema.ModelT.InitFromPackedBuf(file)
    (subgraph,) = parsed.subgraphs
    _, weight, bias = (subgraph.tensors[index] for index in subgraph.operators[0].inputs)
    np.testing.assert_allclose(weight.quantization.scale, [2 / 127, 0.25 / 127], rtol=1e-6)
    levels = np.asarray(parsed.buffers[weight.buffer].data, np.uint8).view(np.int8)
    assert levels.tolist() == [127, -32, 0, 127]  # -0.5 / (2 / 127) = -31.75
    whole = np.asarray(parsed.buffers[bias.buffer].data, np.uint8).view(np.int32)
    assert whole.tolist() == [4048, 0]  # 1 / (4 / 255 * 2 / 127) = 4048.1


@pytest.mark.parametrize("kind", NETS)
def test_buffers_lie_aligned_inside_the_file(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    file = written_int8(model, inputs)
    parsed = schema.Model.GetRootAsModel(file, 0)
    assert parsed.ExternalBuffersLength() == 0
    assert parsed.Buffers(0).DataLength() == 0
    for index in range(1, parsed.BuffersLength()):
        buffer = parsed.Buffers(index)
        start = buffer._tab.Vector(buffer._tab.Offset(4))
        assert buffer.Offset() == 0
        assert start % 16 == 0
        assert start + buffer.DataLength() <= len(file)


def test_the_same_model_gives_the_same_bytes() -> None:
    first, second = (written_int8(*made(Residual)) for _ in range(2))
    assert first == second
    assert litert.gzip_bytes(first) < len(first)


@pytest.mark.parametrize("kind", [Plain, Separable])
def test_emptied_channels_keep_their_bias(kind: type[nn.Module]) -> None:
    model, inputs = made(kind)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight[::2] = 0
            if isinstance(layer, nn.Linear):
                layer.weight[1] = 0
                layer.bias[1] = 1.5
    file = written_int8(model, inputs)
    for reference in (False, True):
        found = litert.run(file, inputs.numpy(), reference=reference)
        assert signal_to_noise_db(model(inputs).detach().numpy(), found) > 20


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(4, 11), kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2),
    dilation=st.integers(1, 2), layout=st.sampled_from([(1, 4), (2, 4), (4, 4), (4, 8)]), pool=st.booleans(),
)  # fmt: skip
def test_any_window_is_the_models(
    size: int, kernel: int, stride: int, padding: int, dilation: int, layout: tuple[int, int], pool: bool
) -> None:
    groups, outputs = layout
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        return
    torch.manual_seed(size)
    model: nn.Module = nn.Conv2d(4, outputs, (kernel, 1), stride, (padding, 0), dilation, groups)
    if pool:
        model = nn.MaxPool2d((kernel, 1), stride, (min(padding, kernel // 2), 0), ceil_mode=padding == 2)
    inputs = torch.randn(4, 4, size, 5)
    graph = graphs.inference(graphs.trace(model, inputs))
    expected = model(inputs).detach().numpy()
    np.testing.assert_allclose(litert.run(litert.write_float(graph), inputs.numpy()), expected, atol=1e-5)
    file = litert.write_int8(graph, litert.calibrate(graph, inputs.numpy()))
    assert signal_to_noise_db(expected, litert.run(file, inputs.numpy(), reference=True)) > 25


@given(low=st.floats(-1e6, 1e6), high=st.floats(-1e6, 1e6))
def test_grids_hold_zero_exactly_and_the_range_within_half_a_step(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    grid = quantise.affine(low, high)
    ends = np.array([min(low, 0), max(high, 0), 0.0], np.float32)
    back = litert.to_float(litert.to_int8(ends, grid), grid)
    assert back[2] == 0
    assert np.all(np.abs(back - ends) <= grid.scale * 0.502)


def test_calibration_takes_true_extremes_and_always_zero() -> None:
    model = nn.Sequential(nn.ReLU())
    inputs = np.linspace(2, 5, 40, dtype=np.float32).reshape(10, 1, 2, 2)
    graph = graphs.trace(model, inputs)
    assert litert.calibrate(graph, inputs, batch_size=3) == {graph.input: (0.0, 5.0), graph.outputs[0]: (0.0, 5.0)}
    with pytest.raises(ValueError, match="at least one"):
        litert.calibrate(graph, inputs[:0])
    with pytest.raises(ValueError, match="not finite"):
        litert.calibrate(graph, inputs * np.float32("inf"))


def test_more_branches_than_a_microcontroller_joins_at_once() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Conv2d(2, 1 + index % 3, 1) for index in range(23))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([branch(x) for branch in self.branches], 1)

    torch.manual_seed(0)
    model, inputs = Wide(), torch.randn(4, 2, 3, 3)
    file = written_int8(model, inputs)
    operators = schema.ModelT.InitFromPackedBuf(file).subgraphs[0].operators
    assert max(len(operator.inputs) for operator in operators) == 10
    assert signal_to_noise_db(model(inputs).detach().numpy(), litert.run(file, inputs.numpy())) > 30


def test_what_a_file_cannot_say_is_refused() -> None:
    model, inputs = made(Plain)
    traced = graphs.trace(model, inputs)
    with pytest.raises(UnsupportedOperation, match="BatchNorm"):
        litert.write_float(traced)
    with pytest.raises(ValueError, match="no range"):
        litert.write_int8(graphs.inference(traced), {})
    flat = litert.run(litert.write_float(graphs.trace(nn.Flatten(), inputs)), inputs.numpy())
    np.testing.assert_array_equal(flat, inputs.flatten(1).numpy())  # moved back to the order of channels first
    with pytest.raises(ValueError, match="channels first"):
        litert.run(litert.write_float(graphs.inference(traced)), inputs.permute(0, 2, 3, 1).numpy())
