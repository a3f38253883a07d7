"""Handwritten digits on a small perceptron: what methods claim to learn, tried in a second a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import here
import numpy as np
from torch import nn

from fedprune.experiment import Experiment, parse
from fedprune.types import FloatTensor

ROUNDS = 16
DATA: dict[str, Any] = {"name": "digits", "devices": 4, "partition": "dirichlet", "alpha": 1.0, "public": 0.1}

TRAINING: dict[str, Any] = {"batch": 32, "grow_batch": 128, "learning_rate": 0.05, "final_learning_rate": 0.005}


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two hidden layers with batch norm, as sparse nets need; every matrix but the last is pruned."""

    def hidden(inputs: int) -> tuple[nn.Module, ...]:
        return nn.Linear(inputs, 100, bias=False), nn.BatchNorm1d(100), nn.ReLU()

    return nn.Sequential(nn.Flatten(), *hidden(int(np.prod(input_shape))), *hidden(100), nn.Linear(100, classes))


def plain(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """``net`` with biases in the place of batch norm, so that next to all of it can be pruned."""
    hidden = nn.Linear(int(np.prod(input_shape)), 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(100, classes))


def experiment(method: Mapping[str, Any], seed: int, **changes: Any) -> Experiment:
    """Four devices with skewed labels train from the seed's weights; ``changes`` replace whole keys."""
    table: dict[str, Any] = {
        "name": "digits",
        "model": "digits_world:net",
        "rounds": ROUNDS,
        "seed": seed,
        "evaluate_every": changes.get("rounds", ROUNDS),
        "prune_first": True,
        "data": DATA,
        "training": TRAINING,
        "pretraining": {"epochs": 0},
        "method": dict(method),
    }
    return parse({**table, **changes}, "digits")


def accuracies(method: Mapping[str, Any], seeds: int, **changes: Any) -> FloatTensor:
    """Of the last test, one a seed: the same data, first weights and order of batches for every method."""
    return np.array([here.accuracy(experiment(method, seed, **changes)) for seed in range(seeds)])


def gain(better: FloatTensor, worse: FloatTensor) -> tuple[float, float]:
    """(mean of the paired differences, half of its 95 % interval by the normal law)."""
    difference = better - worse
    return float(difference.mean()), float(1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))
