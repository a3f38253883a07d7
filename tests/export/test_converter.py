"""The second path to a file, litert-torch and its mending: what the own writer gives, and what it does not cover."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_nets import LARGE, SMALL, shipped
from torch import Tensor, nn

from fedprune.export import litert, tflm
from fedprune.export.litert import converter
from fedprune.export.litert.reader import operator_name, read
from fedprune.export.tflm.sparse import pack_sparse
from fedprune.graph import UnsupportedOperation, inference, trace

pytest.importorskip("litert_torch", reason="litert-torch is an extra, for x86-64 Linux only")

# the large ones take half a minute each, and have nothing that the others do not have
_CHOSEN = [*SMALL, *(LARGE if os.environ.get("FEDPRUNE_SLOW_TESTS") else ())]


def steps_apart(one: bytes, other: bytes, inputs: np.ndarray) -> np.ndarray:
    """Return how many steps of the output's grid lie between what two files give."""
    scale = litert.quantisation(one).output.grid.scale
    assert litert.quantisation(other).output.grid.scale == pytest.approx(scale, rel=1e-3)
    difference = litert.run(one, inputs, reference=True) - litert.run(other, inputs, reference=True)
    return np.rint(np.abs(difference) / scale)


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.mark.parametrize("name", _CHOSEN)
def test_both_paths_to_a_file_agree(name: str) -> None:
    model, inputs = shipped(name, 32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(inputs)).numpy()
    graph = inference(trace(model, inputs[:1]))
    own = litert.write_int8(graph, litert.calibrate(graph, inputs))
    converted = converter.convert(model, inputs)
    some = inputs[:2]
    assert np.allclose(litert.run(converted.litert_float, some), wanted[:2], atol=1e-3 * np.abs(wanted).max())
    # Both put the same floats on the same grids; batch norms are folded in another order of arithmetic, so here and
    # there a value falls to the other side of a rounding. Measured: one step at most, two for resnet18, and most
    # outputs alike (none apart for dscnn, 15 % for har_cnn, 29 % for resnet18).
    apart = steps_apart(own, converted.litert_int8, inputs)
    assert apart.max() <= 3
    assert (apart > 0).mean() < 0.4
    found = litert.run(converted.litert_int8, inputs, reference=True)
    assert (found.argmax(1) == litert.run(own, inputs, reference=True).argmax(1)).mean() > 0.9
    assert decibels(wanted, found) > 35
    # Nothing is left of the converter's names, transposes and pads.
    assert len(converted.litert_int8) <= 1.01 * len(own)
    kinds, wanted_kinds = (set(tflm.operators(file)) for file in (converted.litert_int8, own))
    assert kinds - wanted_kinds <= {"DEPTHWISE_CONV_2D"}  # its convolutions of one input channel
    outputs, arena_bytes = tflm.run(converted.litert_int8, some)
    assert np.array_equal(outputs, found[:2])
    assert arena_bytes == pytest.approx(tflm.run(own, some)[1], rel=0.01)


class Smooth(nn.Module):
    """GELU, batch norm of one dimension, a flattened map and a mean without kept axes."""

    shape = (4, 32)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv1d(4, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.Conv1d(8, 12, 3, 2, 1)
        self.left, self.right = nn.Linear(12 * 8, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.norm(self.first(x)))))
        return self.left(x.flatten(1)) + self.right(x.mean(2))


class Recurrent(nn.Module):
    """An LSTM over a signal, read channels first as all inputs are."""

    shape = (9, 12)

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(9, 10, batch_first=True), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        _, (state, _) = self.cell(x.transpose(1, 2))
        return self.last(state[0])


class Attending(nn.Module):
    """Patches, layer norms, attention."""

    shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation="relu", batch_first=True, norm_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Growing(nn.Module):
    """A map as output, from a transposed convolution."""

    shape = (3, 8, 12)

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


@pytest.mark.parametrize(
    ("kind", "on_microcontrollers"), [(Smooth, False), (Recurrent, True), (Attending, True), (Growing, True)]
)
def test_nets_that_the_own_writer_does_not_cover(kind: type[nn.Module], on_microcontrollers: bool) -> None:
    torch.manual_seed(0)
    model, inputs = kind().eval(), torch.randn(48, *kind.shape)  # type: ignore[misc]
    with pytest.raises(UnsupportedOperation):
        trace(model, inputs)
    with torch.no_grad():
        wanted = model(inputs).numpy()
    files = converter.convert(model, inputs.numpy())
    assert np.allclose(litert.run(files.litert_float, inputs.numpy()), wanted, atol=1e-4)
    found = litert.run(files.litert_int8, inputs.numpy(), reference=True)
    assert decibels(wanted, found) > 30
    if on_microcontrollers:
        assert np.array_equal(tflm.run(files.litert_int8, inputs[:4].numpy())[0], found[:4])
    else:
        with pytest.raises(RuntimeError):  # TensorFlow Lite Micro has no GELU
            tflm.run(files.litert_int8, inputs[:4].numpy())


def test_zeros_of_a_converted_file_leave_the_flash() -> None:
    torch.manual_seed(0)
    model, inputs = Recurrent().eval(), torch.randn(8, *Recurrent.shape).numpy()
    model.last = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 6))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= (torch.rand(weight.shape) < 0.1) if "weight" in name else 1
    dense = converter.convert(model, inputs).litert_int8
    sparse = pack_sparse(read(dense))  # the cell's weights, which its steps share, stay as they are
    assert len(sparse) < len(dense) - 2000
    np.testing.assert_array_equal(tflm.run(sparse, inputs)[0], tflm.run(dense, inputs)[0])


def test_nothing_is_moved_or_scaled_that_need_not_be() -> None:
    torch.manual_seed(0)
    files = converter.convert(Smooth(), torch.randn(4, *Smooth.shape).numpy())
    names = [operator_name(operator) for operator in read(files.litert_int8).operators]
    # The two convolutions pad where SAME does not: before the first position of an even length.
    assert names == ["PAD", "CONV_2D", "GELU", "PAD", "CONV_2D", "GELU", "RESHAPE", "CONV_2D", "MEAN", "CONV_2D", "ADD"]


def test_rows_that_pruning_has_emptied_keep_their_bias() -> None:
    torch.manual_seed(0)
    model, inputs = Smooth().eval(), torch.randn(32, *Smooth.shape)
    with torch.no_grad():
        for layer in (model.first, model.second, model.left, model.right):
            layer.weight[::2] = 0
            layer.bias[::2] = torch.randn_like(layer.bias[::2])
        wanted = model(inputs).numpy()
    found = litert.run(converter.convert(model, inputs.numpy()).litert_int8, inputs.numpy())
    assert decibels(wanted, found) > 30  # 0 with the quantiser's own scales


def test_the_model_and_the_random_stream_stay_as_they_were() -> None:
    model = Smooth().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    converter.convert(model, np.ones((2, *Smooth.shape), np.float32))
    assert torch.equal(state, torch.get_rng_state())
    assert (model.training, model.norm.training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).abs().sum((1, 2))[:, None]


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("kind", "why"), [(Complex, "litert-torch cannot convert the model: "), (Two, "gives a tuple")]
)
def test_what_cannot_be_converted_is_refused_in_one_line(kind: type[nn.Module], why: str) -> None:
    with pytest.raises(UnsupportedOperation, match=why) as caught:
        converter.convert(kind(), np.zeros((1, 2, 8), np.float32))
    assert "\n" not in str(caught.value)


def test_calibration_inputs_must_be_there_and_finite() -> None:
    with pytest.raises(ValueError, match="at least one input"):
        converter.convert(Growing(), np.zeros((0, 3, 8, 12), np.float32))
    with pytest.raises(ValueError, match="not finite"):
        converter.convert(Growing(), np.full((1, 3, 8, 12), np.nan, np.float32))
