"""What devices with data of their own agree on, kept and read again; what is told in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_world

from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.asking import RunStopped
from fedprune.runs.run import simulate

NAMES = ("ann", "bob", "cyd")
METHOD = {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1}


@pytest.mark.parametrize(
    ("labels", "inputs", "why"),
    [
        (["bee"], (1, 7, 7), r"first\.npz: examples of shape 1x7x7; data\.shape says 1x6x6"),
        (["owl"], (1, 6, 6), "label 'owl' is none of the classes"),
    ],
)
def test_a_public_folder_of_nothing_to_use_is_told_in_one_line(
    own_whole: Path, tmp_path: Path, labels: list[str], inputs: tuple[int, ...], why: str
) -> None:
    public = tmp_path / "public"
    public.mkdir()
    np.savez(public / "first.npz", inputs=np.zeros((8, *inputs), np.float32), labels=np.array(labels * 8))
    data = {"name": "arrays", "partition": "own", "public_dir": str(public)}
    with pytest.raises(
        ExperimentError, match=f"^experiment: data: public_dir: {public}: holds no example to use: {why}$"
    ):
        recorded_world.go(tmp_path / "run", own_whole / "people", experiment=recorded_world.experiment(data=data))


def test_constants_that_are_not_one_a_channel_are_told_in_one_line(tmp_path: Path, own_whole: Path) -> None:
    data = {"name": "arrays", "partition": "own", "mean": [5.0, 1.0], "std": [3.0, 1.0]}
    with pytest.raises(RunStopped, match=r"data\.mean: 2 values, but an example of shape \(1, 6, 6\) has 1 channels$"):
        recorded_world.go(tmp_path / "run", own_whole / "people", experiment=recorded_world.experiment(data=data))
    # one that has no example has no shape, whatever the constants
    (tmp_path / "people" / "dan").mkdir(parents=True)
    for name in ("ann", "bob"):
        rng = np.random.default_rng(len(name))
        (tmp_path / "people" / name).mkdir()
        inputs, labels = rng.normal(size=(40, 2, 6, 6)).astype(np.float32), np.array(["bee", "cat"] * 20)
        np.savez(tmp_path / "people" / name / "first.npz", inputs=inputs, labels=labels)
    said: list[dict[str, Any]] = []
    asked = recorded_world.experiment(data=data, rounds=1, method={"name": "magnitude", "density": 0.4})
    assert (
        recorded_world.go(tmp_path / "run", tmp_path / "people", experiment=asked, progress=said.append)["devices"] == 3
    )
    assert not [row for row in said if "takes no part" in row.get("notice", "")]


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"ann": ["bee"], "bob": ["bee"]}, "devices have the label 'bee' alone"),
        ({"ann": [], "bob": []}, "no device has an example to train on"),
    ],
)
def test_devices_with_nothing_to_learn_are_told_in_one_line(
    tmp_path: Path, labels: dict[str, list[str]], why: str
) -> None:
    for name, mine in labels.items():
        (tmp_path / "people" / name).mkdir(parents=True)
        if mine:
            recorded_world.record(tmp_path / "people" / name, mine)
    with pytest.raises(ExperimentError, match=why):
        recorded_world.go(tmp_path / "run", tmp_path / "people")
    assert not (tmp_path / "run").exists()


def test_no_folder_of_devices_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDPRUNE_DATA_DIR", raising=False)
    with pytest.raises(ExperimentError, match="give --data-dir, a folder that holds one folder a device"):
        simulate(recorded_world.experiment(), tmp_path / "run")
    with pytest.raises(ExperimentError, match="cannot be read"):
        recorded_world.go(tmp_path / "run", tmp_path / "missing")


ONE_MEAN = (
    b'{"data": {"name": "arrays", "partition": "own", "classes": ["bee", "cat"], "shape": [1, 6, 6], '
    b'"mean": [0], "std": [1]}, "devices": {"ann": {"train": 9, "development": 1, "test": 2}}}'
)


@pytest.mark.parametrize(
    "spoilt",
    [
        b"{",
        b"[]",
        b'{"data": {"name": "arrays"}, "devices": {}}',
        b'{"devices": {}}',
        *(
            ONE_MEAN.replace(right, wrong)
            for right, wrong in ((b"[0]", b"[0, 1]"), (b', "test": 2', b""), (b'"test": 2', b'"test": -2'))
        ),
    ],
)
def test_a_damaged_agreement_is_told_in_one_line(own_whole: Path, tmp_path: Path, spoilt: bytes) -> None:
    shutil.copytree(own_whole / "run", tmp_path / "run")
    (tmp_path / "run" / "agreed.json").write_bytes(spoilt)
    with pytest.raises(ExperimentError, match=r"agreed\.json: .*start over with --fresh"):
        recorded_world.go(tmp_path / "run", own_whole / "people", resume=True)


def _without_a_part(agreed: dict[str, Any]) -> None:
    del agreed["devices"]["ann"]["test"]


def _fewer_than_none(agreed: dict[str, Any]) -> None:
    agreed["devices"]["ann"]["test"] = -1


def _another_split(agreed: dict[str, Any]) -> None:
    agreed["data"]["test"] = 0.3


@pytest.mark.parametrize("edit", [_without_a_part, _fewer_than_none, _another_split])
def test_an_agreement_that_was_edited_is_told_in_one_line(
    own_whole: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    shutil.copytree(own_whole / "run", tmp_path / "run")
    file = tmp_path / "run" / "agreed.json"
    agreed = json.loads(file.read_text())
    edit(agreed)
    file.write_text(json.dumps(agreed))
    with pytest.raises(ExperimentError, match=r"agreed\.json: .*start over with --fresh"):
        recorded_world.go(tmp_path / "run", own_whole / "people", resume=True)


def test_a_run_without_its_agreement_does_not_go_on(own_whole: Path, tmp_path: Path) -> None:
    shutil.copytree(own_whole / "run", tmp_path / "run")
    (tmp_path / "run" / "agreed.json").unlink()
    with pytest.raises(ExperimentError, match=r"agreed\.json: is missing; start over with --fresh$"):
        recorded_world.go(tmp_path / "run", own_whole / "people", resume=True)
