"""Folders of devices with data of their own: small images of patterns, as .npz files that somebody might bring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.experiment import Experiment, parse

SHAPE = (1, 6, 6)
LABELS = ("bee", "cat", "dog", "eel")


def record(folder: Path, labels: Sequence[str], each: int = 40, seed: int = 0, file: str = "first.npz") -> None:
    """``each`` noisy images of each label into a file of a folder."""
    rng = np.random.default_rng(seed)
    patterns = dict(zip(LABELS, np.random.default_rng(7).normal(size=(len(LABELS), *SHAPE)), strict=True))
    names = np.repeat(np.array(labels), each)
    inputs = np.stack([patterns[name] for name in names]) + rng.normal(scale=0.7, size=(len(names), *SHAPE))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / file, inputs=(3 * inputs + 5).astype(np.float32), labels=names)


def people(root: Path) -> Path:
    """Three devices with equally many, but different, classes."""
    for seed, (name, labels) in enumerate({"ann": "bee cat", "bob": "cat dog", "cyd": "dog bee"}.items()):
        record(root / name, labels.split(), seed=seed)
    return root


def experiment(**changes: Any) -> Experiment:
    """Three rounds of FedTiny on whatever devices have; ``changes`` replace whole keys."""
    table: dict[str, Any] = {
        "name": "own",
        "model": "tiny_world:net",
        "rounds": 3,
        "data": {"name": "arrays", "partition": "own"},
        "training": {"batch": 8, "grow_batch": 16, "epochs": 2, "final_learning_rate": 0.002},
        "method": {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1, "stop": 2},
    }
    return parse({**table, **changes}, "own")
