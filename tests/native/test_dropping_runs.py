"""Runs of a net with dropout: natively, in the same bits by any workers and gone on with, and as good as with torch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
from fleets import assert_same, fleet_of

from fedprune.experiment import Experiment
from fedprune.federated.link import engines
from fedprune.federated.rounds.model import State, read
from fedprune.native import library
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import simulate, train
from fedprune.training import native

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


def asked(engine: str = "native", **changes: Any) -> Experiment:
    training = {"batch": 8, "grow_batch": 16, "engine": engine, **changes.pop("training", {})}
    method = {"name": "magnitude", "density": 0.3}
    return tiny_world.experiment(
        **{"model": "drawing_nets:dropping_vgg", "training": training, "method": method, "pretraining": {}, **changes}
    )


def ended(folder: Path, experiment: Experiment, workers: int = 1, **options: Any) -> tuple[State, list[str]]:
    rows: list[dict[str, Any]] = []
    engine = functools.partial(engines.local, workers=workers)
    simulate(experiment, folder, engine=engine, **{"progress": rows.append, **options})
    assert not [row for row in rows if row.get("faults")]
    notices = [row["notice"] for row in rows if "training.engine" in row.get("notice", "")]
    return read(RunFolder(folder).checkpoint), notices


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> State:
    state, notices = ended(tmp_path_factory.mktemp("run") / "whole", asked())
    assert ["train natively, without torch" in notice for notice in notices] == [True]
    return state


def test_two_workers_end_in_the_bits_of_one(whole: State, tmp_path: Path) -> None:
    assert_same(whole, ended(tmp_path / "two", asked(), workers=2)[0])


def test_stopped_and_gone_on_with_by_two_it_ends_in_the_same_bits(whole: State, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if (row.get("phase"), row.get("round")) == ("train", 2):
            raise Stop

    with pytest.raises(Stop):
        ended(tmp_path / "cut", asked(), progress=stop)
    assert_same(whole, ended(tmp_path / "cut", asked(), workers=2, resume=True)[0])


@pytest.mark.parametrize("method", ["heterofl", "fedtiny"])
def test_tiers_of_fewer_channels_and_of_parts_trained_along_end_in_the_same_bits(tmp_path: Path, method: str) -> None:
    experiment = fleet_of(
        method, rounds=1, model="drawing_nets:dropping_vgg", training={"engine": "native", "inner_steps": 2}
    )
    one, notices = ended(tmp_path / "one", experiment)
    assert any("train natively" in notice for notice in notices)
    assert_same(one, ended(tmp_path / "two", experiment, workers=2)[0])


def test_what_is_drawn_decides_where_it_ends(whole: State, tmp_path: Path, monkeypatch: Any) -> None:
    """Else the laws above would say nothing."""
    real = native.train

    def undrawn(*args: Any, drawn: Callable[[int], int] = int, **named: Any) -> Any:
        return real(*args, drawn=lambda step: drawn(step) ^ 1, **named)

    monkeypatch.setattr(native, "train", undrawn)
    other = ended(tmp_path / "other", asked())[0]
    assert any(not np.array_equal(value, other.params[name]) for name, value in whole.params.items())


def test_it_learns_as_with_torch(tmp_path: Path) -> None:
    """Digits, long before they are learnt by heart."""
    data = {"name": "digits", "partition": "iid", "devices": 4, "public": 0.2}
    given = {"data": data, "rounds": 8, "method": {"name": "fedavg"}}
    found: dict[str, list[float]] = {"native": [], "torch": []}
    for engine, scores in found.items():
        for seed in range(2):
            experiment = asked(engine, seed=seed, training={"batch": 16, "learning_rate": 0.02}, **given)
            scores.append(train(experiment, tmp_path / f"{engine}{seed}")["accuracy_float"])
    assert min(found["native"]) > 0.85
    assert abs(np.mean(found["native"]) - np.mean(found["torch"])) < 0.06, found
