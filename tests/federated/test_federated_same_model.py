"""The same model bit for bit, whoever computes it and however often the run was stopped."""

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fleets
import numpy as np
import pytest
import tiny_world

from fedprune.experiment import ExperimentError
from fedprune.federated.link import engines
from fedprune.federated.rounds.model import State, read, save
from fedprune.runs.folder import RunFolder
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import prepare


def assert_same(one: State, other: State) -> None:
    """Equal names, types, shapes and bits."""
    assert one.round == other.round
    for part in ("params", "masks", "memory"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype, name
            assert value.shape == theirs[name].shape, name
            assert value.tobytes() == theirs[name].tobytes(), name


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without what the clock says."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_two_workers_give_the_model_of_one_and_are_ended(whole: Any, tmp_path: Path) -> None:
    experiment = tiny_world.experiment()
    setting, folder = prepare(experiment, "test"), RunFolder(tmp_path / "two")
    folder.begin(experiment)
    serve = functools.partial(fleets.drive, setting=setting, folder=folder, state=None, progress=lambda row: None)
    engines.local(4, None, serve, workers=2)
    assert_same(whole.state, read(folder.checkpoint))
    assert timeless(whole.rows) == timeless(folder.rows())
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("SpawnProcess")]


@pytest.mark.parametrize(
    ("round", "phase"),
    [
        (0, "bn_statistics"),
        (0, "losses"),
        (1, "train"),
        (2, "train"),
        (2, "top_gradients"),
        (2, "evaluate"),
        (3, "evaluate"),
    ],
)
def test_a_run_stopped_anywhere_goes_on_to_the_same_model(
    whole: Any, go: Callable[..., Any], round: int, phase: str
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row.get("round") == round and row["phase"] == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tiny_world.experiment(), progress=stop)
    before = {(str(row["round"]), row["phase"]) for row in RunFolder(Path(go.args[0])).rows()}  # type: ignore[attr-defined]
    again = go(tiny_world.experiment(), resume=True)
    assert_same(whole.state, again.state)
    assert timeless(whole.rows) == timeless(again.rows)
    # no phase that was done is asked for again, and no other is left out
    asked = {(each.metadata.group_id, each.metadata.message_type.rpartition(".")[2]) for each, _ in again.crossed}
    asked = {(at, phase) for at, phase in asked if phase != "profile"}
    assert (str(round), phase) in before
    assert not before & asked
    assert len(before | asked) == len(whole.rows)


def test_a_run_stopped_twice_and_cut_in_the_middle_of_a_line_goes_on(whole: Any, go: Callable[..., Any]) -> None:
    for round in (1, 2):

        def stop(row: dict[str, Any], round: int = round) -> None:
            if row.get("round") == round and row["phase"] == "top_gradients":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            go(tiny_world.experiment(), progress=stop, resume=round > 1)
    folder = RunFolder(Path(go.args[0]))  # type: ignore[attr-defined]
    with folder.metrics.open("a") as file:
        file.write('{"round": 2, "phase": "eva')  # what a power cut leaves
    again = go(tiny_world.experiment(), resume=True)
    assert_same(whole.state, again.state)
    assert timeless(whole.rows) == timeless(again.rows)


def test_another_seed_gives_another_model(whole: Any, go: Callable[..., Any]) -> None:
    other = go(tiny_world.experiment(seed=1, rounds=1))
    assert any(not np.array_equal(mask, whole.states[1].masks[name]) for name, mask in other.state.masks.items())


def test_a_checkpoint_keeps_every_bit(tmp_path: Path, whole: Any) -> None:
    odd = {"x": np.array([-0.0, np.nan, np.inf, 1e-45], np.float32), "n": np.asarray(3, np.int64)}
    state = State(7, odd, {"x": np.array([True, False, True, False])}, {"m": np.zeros((0, 2), np.float32)})
    save(state, tmp_path / "c")
    assert_same(state, read(tmp_path / "c"))
    assert [p.name for p in tmp_path.iterdir()] == ["c"]  # and leaves no draft


def test_another_experiment_is_not_resumed(go: Callable[..., Any]) -> None:
    first = go(tiny_world.experiment(rounds=1))
    before = first.folder.checkpoint.read_bytes(), first.folder.metrics.read_bytes()
    with pytest.raises(ExperimentError, match="another experiment"):
        go(tiny_world.experiment(rounds=2), resume=True)
    assert before == (first.folder.checkpoint.read_bytes(), first.folder.metrics.read_bytes())


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "no round", "unknown part"])
def test_a_damaged_checkpoint_is_named(whole: Any, tmp_path: Path, damage: str) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(tiny_world.experiment())
    good = whole.folder.checkpoint.read_bytes()
    bad = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "noise": bytes(range(256)) * 4,
        "no round": good.replace(b"round", b"rounf", 1),
        "unknown part": good.replace(b"notes/", b"notez/", 1),
    }[damage]
    folder.checkpoint.write_bytes(bad)
    with pytest.raises(ExperimentError, match=r"checkpoint\.fedprune: damaged .*--fresh") as caught:
        folder.resume(tiny_world.experiment())
    assert "\n" not in str(caught.value)


def test_pretraining_follows_from_the_seed() -> None:
    experiment = tiny_world.experiment()
    assert_same(pretrain(prepare(experiment, "test")), pretrain(prepare(experiment, "test")))
