"""Small comparisons of digits: what a file says, and a method that cannot be run with one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedprune.methods.layers import Shapes
from fedprune.methods.static.magnitude import magnitude
from fedprune.types import Method, Model

EXPERIMENT = """
model = "digits_cnn"
rounds = 2
[data]
name = "digits"
devices = 3
examples = 240
partition = "iid"
[training]
batch = 16
learning_rate = 0.05
final_learning_rate = 0.01
[pretraining]
epochs = 1
[method]
name = "fedavg"
"""

COMPARISON = """
densities = [0.3, 0.1]
seeds = 2
against = "rigl"
[experiments.small]
file = "small.toml"
schedule = { period = 1, stop = 3 }
target = 0.05
[methods]
rigl = {}
magnitude = {}
fedavg = {}
"""


def write(folder: Path, comparison: str = COMPARISON) -> Path:
    """A comparison's file, and its experiment beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.toml").write_text(EXPERIMENT)
    (folder / "table.toml").write_text(comparison)
    return folder / "table.toml"


def failing(layers: Shapes, *, density: float, seed: int = 0) -> Method:
    """Magnitude pruning, which fails in round 1 with any seed but 0."""

    def act(model: Model, found: Any, round: int) -> Model:
        if round and seed:
            raise KeyError("not with this seed")  # which nobody expects of it
        return model

    return magnitude(layers, density=density)._replace(act=act)
