"""Small made-up data and nets of each task, importable by name: what a model of some hundred parameters learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedprune.data import Dataset, Examples

_ONE = np.ones(1, np.float32)
_COUNT = 240


def _set(inputs: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    return Dataset("made", Examples(inputs, labels), None, classes, inputs.shape[1:], 0 * _ONE, _ONE)


def _table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(_COUNT, 8)).astype(np.float32)


def prices(data_dir: Path | None = None) -> Dataset:
    """A table of eight columns, and one target in the hundreds that two of them decide."""
    inputs = _table(1)
    return _set(inputs, (300 + 40 * inputs[:, 0] - 25 * inputs[:, 3]).astype(np.float32), ("price",))


def two_targets(data_dir: Path | None = None) -> Dataset:
    """The same table, and two targets of different units."""
    inputs = _table(2)
    labels = np.stack([1000 * inputs[:, 0], 0.01 * inputs[:, 1] - 5], 1)
    return _set(inputs, labels.astype(np.float32), ("metres", "volts"))


def tags(data_dir: Path | None = None) -> Dataset:
    """Three labels, each of which an example may have."""
    inputs = _table(3)
    return _set(inputs, (inputs[:, :3] > 0).astype(np.int64), ("red", "round", "ripe"))


def yes_or_no(data_dir: Path | None = None) -> Dataset:
    """Two classes."""
    inputs = _table(4)
    return _set(inputs, (inputs[:, 0] + inputs[:, 1] > 0).astype(np.int64), ("no", "yes"))


def yes(data_dir: Path | None = None) -> Dataset:
    """The same with the name of its only output."""
    inputs = _table(4)
    return _set(inputs, (inputs[:, 0] + inputs[:, 1] > 0).astype(np.int64), ("yes",))


def counting(data_dir: Path | None = None) -> Dataset:
    """Sequences of six tokens that count up, from anywhere, over the end and on."""
    first = np.random.default_rng(5).integers(0, 5, (_COUNT, 1))
    whole = (first + np.arange(7)) % 5
    return _set(whole[:, :-1], whole[:, 1:], tuple("abcde"))


def shapes(data_dir: Path | None = None) -> Dataset:
    """Bright squares on dark ground: which pixels are of one."""
    inputs, corners = np.zeros((_COUNT, 1, 8, 8), np.float32), np.random.default_rng(6).integers(0, 5, (_COUNT, 2))
    for image, (top, left) in zip(inputs, corners, strict=True):
        image[0, top : top + 3, left : left + 3] = 1
    noise = np.random.default_rng(7).normal(0, 0.1, inputs.shape).astype(np.float32)
    return _set(inputs + noise, inputs[:, 0].astype(np.int64), ("ground", "square"))


def distances(data_dir: Path | None = None) -> Dataset:
    """A distance in millimetres for each pixel, the darker the farther."""
    inputs = np.random.default_rng(8).random((_COUNT, 1, 6, 6)).astype(np.float32)
    return _set(inputs, (4000 - 1500 * inputs[:, 0]).astype(np.float32), ("distance",))


def table_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three layers, of which the middle one is pruned."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(int(np.prod(input_shape)), 16),
        nn.ReLU(),
        nn.Linear(16, 16),
        nn.ReLU(),
        nn.Linear(16, classes),
    )


def one_logit(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """`table_net` with one logit, whatever the classes."""
    return table_net(input_shape, 1)


class _Tokens(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(classes, 8), nn.Linear(8, 16), nn.Linear(16, classes)
        self.first = nn.Linear(8, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        seen = torch.relu(self.first(self.embedding(tokens)))
        logits: torch.Tensor = self.head(torch.relu(self.inner(seen)))
        return logits


def token_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """An embedding and three layers at each place: logits (n, T, classes)."""
    return _Tokens(classes)


def map_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three convolutions that keep the size: (n, classes, H, W)."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, classes, 1),
    )
