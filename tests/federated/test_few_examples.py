"""Devices and servers that have next to nothing: one development example, one public example, one to train on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, ExperimentError, parse
from fedprune.runs.setting import prepare


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Batch norm over examples alone: of one it has no spread."""

    def block(narrow: int, wide: int) -> nn.Module:
        return nn.Sequential(nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.ReLU())

    return nn.Sequential(block(*input_shape, 16), block(16, 12), nn.Linear(12, classes))


def load(data_dir: Path | None = None) -> Dataset:
    """Six people of 15 examples."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    return Dataset("few", Examples(rng.normal(labels[:, None], 1, (90, 5)), labels, np.arange(90) // 15))


def few(**changes: Any) -> Experiment:
    table: dict[str, Any] = {
        "name": "few",
        "model": f"{__name__}:net",
        "rounds": 1,
        "data": {"name": f"{__name__}:load", "partition": "natural", **changes.pop("data", {})},
        "training": {"batch": 4},
        "pretraining": {"epochs": 2},
        "method": {"name": "fedtiny", "density": 0.5, "pool": 2, "period": 1, "stop": 2},
    }
    return parse({**table, **changes}, "test")


@pytest.mark.parametrize("public", [0.1, 1 / 72])
def test_a_development_part_of_one_is_used(go: Callable[..., Any], public: float) -> None:
    experiment = few(data={"public": public})
    setting = prepare(experiment, "test")
    assert {parts["development"] for parts in setting.holds.values()} == {1}
    assert len(setting.public) == (1 if public < 0.1 else 7)
    done = go(experiment)
    assert done.state.round == 1
    phases = {row["phase"]: row["devices"] for row in done.rows if row["round"] == 0}
    assert {phases[phase] for phase in ("bn_statistics", "losses")} == {6}


def test_where_no_part_has_one_the_key_is_named() -> None:
    with pytest.raises(ExperimentError, match=r"data\.development: fedtiny .*there are none; set it above 0\.01, or"):
        prepare(few(data={"development": 0.01}), "test")
