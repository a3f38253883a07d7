"""A table and a net for a regression: how far diabetes has gone a year later, by ten measurements of each patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes
from torch import nn

from fedprune.data import Dataset, Examples


def load(data_dir: Path | None = None) -> Dataset:
    """Return scikit-learn's diabetes: 442 patients, (10,) float32 each, and their target as it is, 25 to 346."""
    table = load_diabetes(scaled=False)
    inputs, target = table.data.astype(np.float32), table.target.astype(np.float32)
    # to train and to test on people drawn once
    order = np.random.default_rng(0).permutation(len(target))
    train, test = order[88:], order[:88]
    mean, std = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    split = (Examples(inputs[rows], target[rows]) for rows in (train, test))
    return Dataset("diabetes", *split, ("progression",), (10,), mean, std)


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a perceptron of two hidden layers, of which the second is pruned: (n, 10) -> (n, classes)."""
    return nn.Sequential(nn.Linear(input_shape[0], 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes))
