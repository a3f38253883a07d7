"""A run's smaller net from fresh weights: what stays the same, what is counted, and what cannot be compared."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
from msgspec.structs import replace

from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.rounds.model import read
from fedprune.methods import build
from fedprune.runs.accounts import Accounts
from fedprune.runs.pretraining import pretrain
from fedprune.runs.run import simulate
from fedprune.runs.scratch import Arm, _longer, again, possible, scratch
from fedprune.runs.setting import prepare

_run = functools.partial(simulate, engine=tiny_world.HERE)
GMP = {"name": "gmp", "density": 0.1, "stop": 4}  # dense at first, so that a small net trains longer for as much


def fails(experiment: Experiment, folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} was run")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Arm]]:
    """A run of six rounds that has been compared with its arms."""
    path = tmp_path_factory.mktemp("scratch") / "run"
    _run(tiny_world.experiment(method=GMP, rounds=6), path)
    return path, scratch(path, "test", None, lambda experiment, to: _run(experiment, to, resume=True))


def test_arms_train_the_runs_own_masks_from_other_weights(ended: tuple[Path, dict[str, Arm]]) -> None:
    path, found = ended
    with np.load(path / "model.npz") as file:
        kept = {name.removeprefix("mask/"): file[name] for name in file.files if name.startswith("mask/")}
    folders = sorted((path / "scratch").iterdir())
    assert len(folders) == 6
    seen = set()
    for folder in folders:
        state = read(folder / "checkpoint.fedprune")
        for name, mask in state.masks.items():
            assert not state.params[name][~kept[name]].any()
            assert np.array_equal(mask, kept[name])
        seen.add(b"".join(value.tobytes() for value in state.params.values()))
        table = json.loads((folder / "experiment.json").read_text())
        assert "method" in table
        assert table["data"] == json.loads((path / "experiment.json").read_text())["data"]
    assert len(seen) == 6
    assert found["E"].rounds == 6 < found["B"].rounds


def test_equal_compute_is_counted_from_the_weights_that_were_kept(ended: tuple[Path, dict[str, Arm]]) -> None:
    """Multiply-adds by hand: 36 positions of an image; the stem and the head are dense."""
    path, found = ended
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    fixed = 36 * 6 * 9 + 10 * tiny_world.CLASSES
    spent = [fixed + 36 * sum(row["kept"].values()) for row in rows if row["phase"] == "train"]
    assert len(spent) == 6
    assert spent[0] > spent[-1]
    with np.load(path / "model.npz") as file:
        last = fixed + 36 * sum(int(file[name].sum()) for name in file.files if name.startswith("mask/"))
    assert found["B"].rounds == round(sum(spent) / last)
    for arm in found.values():
        assert arm.compute == pytest.approx(arm.rounds * last / sum(spent))
    assert found["B"].compute == pytest.approx(1, abs=0.5 * last / sum(spent))


def test_result_and_report_say_what_came_and_nothing_is_run_twice(ended: tuple[Path, dict[str, Arm]]) -> None:
    path, found = ended
    told = json.loads((path / "result.json").read_text())
    assert told["scratch"]["correlation"] < 0.1
    arm = told["scratch"]["arms"]["E"]
    assert arm["gain"] == pytest.approx(told["accuracy_float"] - np.mean(arm["values"]))
    assert len(arm["values"]) == 3
    assert arm["half"] > 0
    page = (path / "report.html").read_text()
    assert "Scratch-E, equal rounds" in page
    assert "Scratch-B, equal compute" in page
    assert scratch(path, "test", None, fails) == found
    _run(tiny_world.experiment(method=GMP, rounds=6), path, fresh=True)
    assert not (path / "scratch").exists()
    assert "Scratch-E" not in (path / "report.html").read_text()


@pytest.mark.parametrize(
    "method", [{"name": "spa", "keep": 0.5}, {"name": "heterofl", "width": 0.5}, {"name": "dis_pfl", "density": 0.3}]
)
def test_channels_and_masks_of_devices_have_arms_as_well(method: dict[str, Any], tmp_path: Path) -> None:
    result = _run(tiny_world.experiment(method=method, rounds=1), tmp_path / "run")
    found = scratch(tmp_path / "run", "test", None, lambda experiment, to: _run(experiment, to, resume=True))
    folders = [*(tmp_path / "run" / "scratch").iterdir()]
    assert len(folders) == 3 * len({arm.rounds for arm in found.values()})
    for folder in folders:
        told = json.loads((folder / "result.json").read_text())
        assert told["macs"] == result["macs"]
        assert told["parameters_compact"] == result["parameters_compact"] <= result["parameters"]


def test_dense_gradients_count_in_the_rounds_that_take_them(tmp_path: Path) -> None:
    """BiP asks until its stop, in round 1 of three: by hand, what is computed once more there is a dense pass."""
    setting = prepare(tiny_world.experiment(method={"name": "bip", "density": 0.2, "stop": 1}, rounds=3), "test")
    costs, left = Accounts(setting), dict.fromkeys(setting.layers, 9.0)
    taken, plain = (costs.of(left, kinds)["flops"] for kinds in ({"train", "gradients"}, {"train"}))
    examples = max(parts["train"] for parts in setting.holds.values())
    fixed, dense = 36 * 6 * 9 + 10 * tiny_world.CLASSES, 36 * (6 * 10 * 9 + 10 * 10 * 9)
    assert plain == examples * 3 * 2 * (fixed + 36 * 18)
    assert taken == examples * (2 * 2 * (fixed + 36 * 18) + 2 * (fixed + dense))
    assert costs.of(left)["flops"] == taken


def test_a_static_mask_has_one_arm_for_both(tmp_path: Path) -> None:
    _run(tiny_world.experiment(method={"name": "random_erk", "density": 0.3}, rounds=1), tmp_path / "run")
    found = scratch(tmp_path / "run", "test", None, lambda experiment, to: _run(experiment, to, resume=True))
    assert found["E"] == found["B"]
    assert found["E"].compute == 1
    assert len([*(tmp_path / "run" / "scratch").iterdir()]) == 3


def test_pretraining_within_masks_leaves_what_they_prune_at_0(tmp_path: Path) -> None:
    experiment = tiny_world.experiment(method={"name": "magnitude", "density": 0.2}, rounds=0)
    _run(experiment, tmp_path / "run")
    state = pretrain(prepare(again(experiment, tmp_path / "run", 1), "test"))
    with np.load(tmp_path / "run" / "model.npz") as file:
        for name in (name for name in file.files if name.startswith("mask/")):
            value = state.params[name.removeprefix("mask/")]
            assert np.array_equal(value != 0, file[name]), name
    given = pretrain(prepare(replace(experiment, method={"name": "fedavg"}), "test")).params
    assert all((given[name] != 0).all() for name in given if name.endswith("0.weight"))


def test_as_pruned_keeps_what_is_not_0() -> None:
    method = build({"name": "as_pruned"}, {"layer": (2, 2)}, seed=0)
    model = method.start({"layer": np.array([[0.0, 2.0], [-1e-30, 0.0]]), "other": np.zeros(2)})
    assert model.masks["layer"].tolist() == [[False, True], [True, False]]
    assert [*model.masks] == ["layer"]


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    fleet = {"a": {"devices": 2}, "b": {"devices": 2}}
    with pytest.raises(ExperimentError, match=r"^test: fleet: its tiers end in a net each; for --scratch leave"):
        possible(tiny_world.experiment(fleet=fleet), "test")
    with pytest.raises(ExperimentError, match=r"^test: rounds: with 0 no device trains"):
        possible(tiny_world.experiment(rounds=0), "test")
    _run(tiny_world.experiment(method={"name": "fedavg"}, rounds=1), tmp_path / "dense")
    with pytest.raises(ExperimentError, match=r"^test: method\.name: fedavg prunes nothing, so --scratch has no"):
        possible(tiny_world.experiment(method={"name": "fedavg"}), "test")
    with pytest.raises(
        ExperimentError, match=r"^test: the run in .*dense pruned nothing, so --scratch has no smaller net"
    ):
        scratch(tmp_path / "dense", "test", None, fails)


def test_a_schedule_is_stretched_with_the_rounds() -> None:
    schedule = [{"rounds": 2, "to": 0.2}, {"rounds": 4, "to": 0.01}]
    asked = tiny_world.experiment(rounds=6, training={"batch": 8, "schedule": schedule})
    assert [each.rounds for each in _longer(asked, 9).training.schedule] == [3, 6]
    assert _longer(asked, 6) == asked


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no run's folder with a model.npz"),
        (b"PK\3\4 cut", "damaged ("),
        ("shape", "has shape (1,), the model's"),
        ("other", "that run pruned 9.weight, which this model has not"),
    ],
)
def test_masks_that_cannot_be_had_are_one_line(content: bytes | str | None, why: str, tmp_path: Path) -> None:
    if isinstance(content, str):
        name = {"shape": "mask/1.0.weight", "other": "mask/9.weight"}[content]
        np.savez(tmp_path / "model.npz", **{name: np.zeros(1, np.bool_)})  # type: ignore[arg-type]
    elif content is not None:
        (tmp_path / "model.npz").write_bytes(content)  # type: ignore[arg-type]
    experiment = tiny_world.experiment(pretraining={"masks": str(tmp_path)})
    with pytest.raises(ExperimentError) as refused:
        simulate(experiment, tmp_path / "run")
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("experiment: pretraining.masks: ")
    assert not (tmp_path / "run").exists()
