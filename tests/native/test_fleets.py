"""Fleets of unequal tiers, trained natively: the same as with torch to rounding, nested parts and narrower ones too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
from fleets import assert_same, assert_whole, fleet_of, tensors

from fedprune.federated.rounds.model import State, read
from fedprune.native import library
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import simulate
from fedprune.training import native

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


def ended(folder: Path, method: str, engine: str, **training: Any) -> State:
    rows: list[dict[str, Any]] = []
    experiment = fleet_of(method, rounds=1, training={"engine": engine, **training})
    simulate(experiment, folder, progress=rows.append, engine=tiny_world.HERE)
    assert not [row for row in rows if row.get("faults")]
    said = [row["notice"] for row in rows if "training.engine" in row.get("notice", "")]
    assert all("train natively" in notice for notice in said)
    assert len(said) == (engine == "native")
    return read(RunFolder(folder).checkpoint)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many smaller parts each native training had along."""
    found: list[int] = []
    real = native.train

    def train(*args: Any, inner: Sequence[Any] = (), **named: Any) -> Any:
        found.append(len(inner))
        return real(*args, inner=inner, **named)

    monkeypatch.setattr(native, "train", train)
    return found


@pytest.mark.parametrize(
    ("method", "inner_steps", "along"),
    [
        ("fedtiny", 2, [2, 1, 0, 0]),
        ("magnitude", 1, [2, 1, 0, 0]),
        ("heterofl", 2, [0, 0, 0, 0]),
        ("fjord", 2, [2, 1, 0, 0]),
        ("fedrolex", 2, [0, 0, 0, 0]),
    ],
)
def test_a_round_ends_where_torchs_does(
    tmp_path: Path, trained: list[int], method: str, inner_steps: int, along: list[int]
) -> None:
    with_torch = ended(tmp_path / "torch", method, "torch", inner_steps=inner_steps)
    assert trained == []
    natively = ended(tmp_path / "native", method, "native", inner_steps=inner_steps)
    assert trained[-4:] == along  # what comes before are the server's own steps, to see whether the two agree
    assert_whole(natively)
    mine, theirs = tensors(natively), tensors(with_torch)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (mine[name].dtype, mine[name].shape) == (value.dtype, value.shape)
        np.testing.assert_allclose(mine[name], value, atol=1e-3, err_msg=name)


def test_it_ends_twice_in_the_same_bits(tmp_path: Path) -> None:
    assert_same(ended(tmp_path / "one", "fedtiny", "native"), ended(tmp_path / "other", "fedtiny", "native"))
