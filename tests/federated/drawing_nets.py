"""Nets that draw: from torch, numpy and Python, in training, in evaluation, when they are made, or from their own."""

import functools
import random
from collections.abc import Callable, Iterable

import numpy as np
import tiny_world
import torch
from torch import nn


class _Then(nn.Module):
    """``net`` after ``change`` of its inputs."""

    def __init__(self, change: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.change, self.net = change, net

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.net(self.change(inputs))


class _Drawn(nn.Module):
    """Inputs times 1 + ``draw()``; in evaluation too where ``always``."""

    def __init__(self, draw: Callable[[], float], always: bool = False) -> None:
        super().__init__()
        self.draw, self.always = draw, always

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * (1 + self.draw()) if self.training or self.always else inputs


class _Made(nn.Module):
    """What is drawn once, in no state: by torch a plain tensor and a buffer, by numpy an array, by Python an order."""

    def __init__(self) -> None:
        super().__init__()
        self.scales, self.array = torch.rand(1, 1, 6, 6), np.random.rand(6)  # noqa: NPY002
        self.order = random.sample(range(6), 6)
        self.register_buffer("apart", torch.rand(6), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        moved = inputs * (0.5 + self.scales) + self.apart
        return (moved + torch.from_numpy(self.array.astype(np.float32)))[..., self.order]


class _Functional(nn.Module):
    """Functional dropout, which draws in training, and noise from torch in the forward pass."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        dropped = nn.functional.dropout(inputs, 0.2, self.training)
        return dropped + 0.1 * torch.rand(inputs.shape) if self.training else dropped


class _Recurrent(nn.Module):
    """A GRU of two layers over the rows, with dropout between these."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6, 2, batch_first=True, dropout=0.3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.gru(inputs[:, 0])[0][:, None]


class _Attending(nn.Module):
    """Attention among the rows, some of whose weights are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs[:, 0]
        return inputs + self.attention(rows, rows, rows, need_weights=False)[0][:, None]


class _Own(nn.Module):
    """A generator of its own, and a counter of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.steps = torch.Generator().manual_seed(3), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return inputs + self.steps / 100 + torch.rand(inputs.shape[2:], generator=self.generator)


class _Counts(nn.Module):
    """A counter alone."""

    steps = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return inputs + self.steps / 100


CHANGES: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.3),
    "by_numpy": lambda: _Drawn(np.random.rand),
    "by_python": lambda: _Drawn(random.random),
    "when_made": _Made,
    "in_evaluation": lambda: _Drawn(lambda: float(torch.rand(()) + np.random.rand() + random.random()), True),  # noqa: NPY002
    "its_own": _Own,
    "it_counts": _Counts,
    "functional": _Functional,
    "recurrent": _Recurrent,
    "attending": _Attending,
}


def everything(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """All of them, before the tiny net."""
    return _with(CHANGES, input_shape, classes)


def exportable(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Those that draw in training alone, which no file knows of."""
    return _with(["dropout", "by_numpy", "by_python"], input_shape, classes)


def dropping_vgg(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Convolutions and a wide head, as VGG has them, both with dropout: all of it is dropout by counter natively."""
    convolutions = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
    _, height, width = input_shape
    head = (
        nn.Linear(16 * (height // 2) * (width // 2), 48),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(48, 24),
        nn.ReLU(),
        nn.Dropout(0.5),
    )
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Dropout2d(0.1), nn.Flatten(), *head, nn.Linear(24, classes))


def _with(changes: Iterable[str], input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = tiny_world.net(input_shape, classes)
    for name in changes:
        net = _Then(CHANGES[name](), net)
    return net


def _net(name: str) -> Callable[..., nn.Module]:
    return functools.partial(_with, [name])


globals().update({name: _net(name) for name in CHANGES})  # as "drawing_nets:dropout"
