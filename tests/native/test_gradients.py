"""Every operation forwards and back against torch in float64, over odd shapes, batches and densities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from natively import apart, batch_of, in_torch, masked, natively
from torch import nn

from fedprune.native import library

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
_CLOSE = 2e-4


def held(model: nn.Module, shape: tuple[int, ...], classes: int, examples: int, density: float) -> None:
    inputs, labels = batch_of(shape, classes, examples)
    masks = masked(model, density)
    right = in_torch(model, inputs, labels)
    assert apart(natively(model, masks, inputs, labels), right, masks) < _CLOSE


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Two of them, of any kernel, stride, dilation, padding and groups, with what a net has between."""
    groups = draw(st.sampled_from([1, 1, 2, 5]))
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 5))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, kernel[0])), draw(st.integers(0, 2))
    size = draw(st.integers(9, 14)), draw(st.integers(8, 13))
    first = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    middle = draw(st.sampled_from([nn.Identity(), nn.BatchNorm2d(out), nn.ReLU(), nn.Hardswish(), nn.ReLU6()]))
    second = nn.Conv2d(out, out, 3, padding=1, groups=draw(st.sampled_from([1, groups, out])))
    return nn.Sequential(first, middle, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(out, 3)), (
        channels, *size,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(2, 19), st.sampled_from([0.1, 0.3, 1.0]), st.integers(0, 99))
def test_convolutions(net: tuple[nn.Module, tuple[int, ...]], examples: int, density: float, seed: int) -> None:
    torch.manual_seed(seed)
    model, shape = net
    with torch.no_grad():
        for weight in model.parameters():  # of one near 0 before a norm the gradient is large, and little but rounding
            size = torch.empty(weight.shape).uniform_(0.3, 1) / max(1, weight[0].numel()) ** 0.5
            weight.copy_(size * torch.where(torch.rand(weight.shape) < 0.5, -1.0, 1.0))
    held(model, shape, 3, examples, density)


class Squeezed(nn.Module):
    """A residual block with squeeze-and-excitation, a concatenation and a padded shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = nn.Linear(12 * 4 * 5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = nn.functional.pad(x, (0, 0, 0, 0, 1, 2))
        y = torch.relu(self.norm(self.first(x)))
        y = self.last(self.second(y))
        gate = torch.sigmoid(self.up(torch.relu(self.down(nn.functional.adaptive_avg_pool2d(y, 1)))))
        y = torch.relu(y * gate + wide)
        both = torch.cat([nn.functional.max_pool2d(y, 2), nn.functional.avg_pool2d(torch.tanh(y), 2)], 1)
        logits: torch.Tensor = self.head(both.flatten(1))
        return logits


class Twice(nn.Module):
    """A norm that two read, before an activation: what comes first in a pre-activation net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 5, 3, padding=1, stride=2), nn.BatchNorm1d(5)
        self.one, self.other, self.head = nn.Conv1d(5, 5, 1), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        y = torch.relu(self.other(self.one(torch.relu(y))) + y)
        logits: torch.Tensor = self.head(y.mean(2))
        return logits


class Doubled(nn.Module):
    """What is added to itself, and joined with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(6 * 30, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x))
        y = y + y
        logits: torch.Tensor = self.head(torch.cat([y, y], 1).flatten(1))
        return logits


class Summed(nn.Module):
    """A norm's result and what it is added to are the outputs themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(12, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.flatten(1))
        logits: torch.Tensor = self.norm(self.second(torch.relu(y))) + y
        return logits


class Sums(nn.Module):
    """Sums of what goes on to change its gradient: clipped ones, a norm's, and what three read."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1)
        self.conv, self.norm, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4 * 30, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x)) + nn.functional.relu6(self.other(x))
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(y)) + y + y).flatten(1))
        return logits


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(21, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Linear(17, 5))


def pools_that_overlap() -> nn.Module:
    pools = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d((2, 1))
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), *pools, nn.Flatten(), nn.Linear(40, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "perceptron": (perceptron, (3, 7), 5),
    "squeezed": (Squeezed, (3, 8, 10), 4),
    "twice": (Twice, (4, 21), 3),
    "doubled": (Doubled, (2, 5, 6), 3),
    "summed": (Summed, (3, 4), 6),
    "sums": (Sums, (2, 5, 6), 3),
    "pools that overlap": (pools_that_overlap, (2, 10, 11), 3),
}


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("examples", [2, 5, 16, 33])
@pytest.mark.parametrize("name", NETS)
def test_nets(name: str, examples: int, density: float) -> None:
    torch.manual_seed(1)
    make, shape, classes = NETS[name]
    held(make(), shape, classes, examples, density)
