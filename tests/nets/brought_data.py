"""Data that tiny nets learn within seconds: pictures, signals, rows, tokens; and an experiment on them."""

from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, parse

CLASSES, COUNT = 3, 120
SHAPES = {"pictures": (3, 12, 12), "signals": (4, 16), "rows": (12,)}
"""Loader -> shape of one of its inputs."""


def _load(name: str) -> Dataset:
    rng, labels = np.random.default_rng(1), np.arange(COUNT) % CLASSES
    shape = SHAPES[name]
    patterns = np.random.default_rng(7).normal(0, 1.5, (CLASSES, *shape[:1], *[-(-each // 4) for each in shape[1:]]))
    for axis in range(2, 1 + len(shape)):  # smooth, as what nets see is
        patterns = patterns.repeat(4, axis)
    inputs = patterns[labels] + rng.normal(0, 0.5, (COUNT, *shape))
    return Dataset(name, Examples(inputs.astype(np.float32), labels), classes=("a", "b", "c"))


def pictures(data_dir: Path | None = None) -> Dataset:
    """Of 12 × 12 pixels in colour."""
    return _load("pictures")


def signals(data_dir: Path | None = None) -> Dataset:
    """Of four sensors, 16 steps."""
    return _load("signals")


def rows(data_dir: Path | None = None) -> Dataset:
    """Of a table of twelve columns."""
    return _load("rows")


def _texts() -> tuple[np.ndarray, np.ndarray]:
    """Sequences of nine of seven tokens, each so many further than the one before as its kind says; and the kinds."""
    kinds = np.arange(COUNT) % CLASSES
    first = np.random.default_rng(2).integers(0, 7, COUNT)
    return (first[:, None] + (1 + kinds[:, None]) * np.arange(9)) % 7, kinds


def tokens(data_dir: Path | None = None) -> Dataset:
    """What comes next at each of eight places."""
    texts, _ = _texts()
    return Dataset("tokens", Examples(texts[:, :-1], texts[:, 1:]), classes=[*"abcdefg"])


def texts(data_dir: Path | None = None) -> Dataset:
    """Tokens that are given a class."""
    found, kinds = _texts()
    return Dataset("texts", Examples(found, kinds), classes=("a", "b", "c"), mean=0, std=1)


FEDTINY = {"name": "fedtiny", "density": 0.5, "pool": 2, "period": 1, "stop": 2}
MAGNITUDE = {"name": "magnitude", "density": 0.5}


def experiment(net: str, data: str, method: dict[str, Any]) -> Experiment:
    """One round of two devices."""
    table: dict[str, Any] = {
        "name": "brought",
        "model": net,
        "rounds": 1,
        "data": {"name": f"brought_data:{data}", "partition": "iid", "devices": 2, "public": 0.3},
        "training": {"batch": 8, "grow_batch": 8, "learning_rate": 0.02},
        "pretraining": {"epochs": 4},
        "method": method,
        "task": "next_token" if data == "tokens" else "classification",
        "export": {"calibration": "minmax"},
    }
    return parse(table, "brought")
