"""Devices with data of their own: nobody deals them any, and the server sees none of it."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded_world
from flwr.app import Message

from fedprune.federated.link import engines
from fedprune.federated.link.engines import Engine
from fedprune.federated.link.records import from_records
from fedprune.federated.rounds.asking import RunStopped
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import train

NAMES = ("ann", "bob", "cyd")
METHOD = {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1}


def test_devices_of_different_classes_end_in_one_model_of_all_of_them(own_whole: Path) -> None:
    agreed = json.loads((own_whole / "run" / "agreed.json").read_text())
    result = RunFolder(own_whole / "run").read_result()
    assert agreed["data"]["classes"] == ["bee", "cat", "dog"]
    assert agreed["data"]["shape"] == [1, 6, 6]
    assert list(agreed["devices"]) == ["ann", "bob", "cyd"]
    assert all(sum(parts.values()) == 80 for parts in agreed["devices"].values())
    assert result["devices"] == 3
    tested = sum(parts["test"] for parts in agreed["devices"].values())
    assert result["checks"]["litert_int8"]["examples"] == result["checks"]["litert_float"]["examples"] == tested
    # each device alone knows two of three: all of its test part, a third of everybody's at least
    assert result["accuracy_int8"] > 0.8
    card = json.loads((own_whole / "run" / "microcontroller" / "model_card.json").read_text())
    assert card["labels"] == ["bee", "cat", "dog"]


def test_inputs_are_normalised_by_the_moments_of_all_training_parts(own_whole: Path) -> None:
    from fedprune.data import own

    agreed = RunFolder(own_whole / "run").agreed()
    assert agreed is not None
    each = [own.read(agreed.settings, own_whole / "people" / name) for name in NAMES]
    parts = [
        own.parts(agreed.settings, one, agreed.settings.classes, name)[0] for one, name in zip(each, NAMES, strict=True)
    ]
    pooled = np.concatenate([one.train.inputs for one in parts]).astype(np.float64)
    assert agreed.settings.mean == (np.float32(pooled.mean()),)
    assert agreed.settings.std == (np.float32(pooled.std()),)


def test_lines_name_devices(own_whole: Path) -> None:
    rows = RunFolder(own_whole / "run").rows()
    assert {tuple(row["asked"]) for row in rows if row.get("asked")} == {("ann", "bob", "cyd")}
    assert all(row["worst"]["device"] in ("ann", "bob", "cyd") for row in rows if "worst" in row)
    assert rows[-1]["phase"] == "check"
    assert not any(row.get("faults") for row in rows)


@pytest.mark.parametrize("phase", ["train", "evaluate", "top_gradients", "ranges"])
def test_a_run_that_stops_goes_on_to_the_same_bits(own_whole: Path, tmp_path: Path, phase: str) -> None:
    stopped = []

    def stop(row: dict[str, Any]) -> None:
        if row.get("phase") == phase and not stopped:
            stopped.append(row)
            raise RunStopped("power lost")

    with pytest.raises(RunStopped, match="power lost"):
        recorded_world.go(tmp_path / "run", own_whole / "people", progress=stop)
    assert stopped
    recorded_world.go(tmp_path / "run", own_whole / "people", resume=True)
    for name in ("model.npz", "model.tflite", "agreed.json"):
        assert (tmp_path / "run" / name).read_bytes() == (own_whole / "run" / name).read_bytes(), name


@pytest.mark.parametrize("engine", [functools.partial(engines.local, workers=2), engines.ray], ids=["processes", "ray"])
def test_the_same_bits_wherever_devices_are(
    own_whole: Path, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    recorded_world.go(tmp_path / "run", own_whole / "people", engine=engine)
    assert (tmp_path / "run" / "model.npz").read_bytes() == (own_whole / "run" / "model.npz").read_bytes()


def test_devices_with_next_to_nothing_stop_no_round(tmp_path: Path) -> None:
    people = recorded_world.people(tmp_path / "people")
    (people / "nothing").mkdir()
    recorded_world.record(people / "one_class", ["eel"], each=30, seed=9)
    recorded_world.record(people / "one_example", ["bee"], each=1, seed=10)
    (people / "damaged").mkdir()
    (people / "damaged" / "x.npz").write_bytes(b"PK\x03\x04 no more")
    result = recorded_world.go(tmp_path / "run", people)
    folder = RunFolder(tmp_path / "run")
    agreed = folder.agreed()
    assert agreed is not None
    assert agreed.settings.classes == ("bee", "cat", "dog", "eel")
    assert agreed.holds["nothing"] == agreed.holds["damaged"] == {"train": 0, "development": 0, "test": 0}
    assert result["devices"] == 7
    assert not any(row.get("faults") for row in folder.rows())
    assert all(row["unused"] == {"damaged": 2, "nothing": 1} for row in folder.rows() if "damaged" in row["asked"])
    assert {row["devices"] for row in folder.rows() if row["phase"] == "evaluate"} == {7}


def test_one_holder_of_all_folders(own_whole: Path, tmp_path: Path) -> None:
    result = train(recorded_world.experiment(rounds=2), tmp_path / "run", data_dir=str(own_whole / "people"))
    agreed = RunFolder(own_whole / "run").agreed()
    assert agreed is not None
    assert result["devices"] == 1 or result["devices"] == 3
    tested = sum(parts["test"] for parts in agreed.holds.values())
    assert result["checks"]["litert_int8"]["examples"] == tested
    assert result["accuracy_int8"] > 0.8


def test_the_servers_own_examples_pretrain_and_give_ranges(own_whole: Path, tmp_path: Path) -> None:
    recorded_world.record(tmp_path / "public", ["bee", "cat", "dog"], each=20, seed=50)
    data = {"name": "arrays", "partition": "own", "public_dir": str(tmp_path / "public")}
    asked, rows = recorded_world.experiment(data=data, pretraining={"epochs": 2}), list[dict[str, Any]]()
    result = recorded_world.go(tmp_path / "run", own_whole / "people", experiment=asked, progress=rows.append)
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert not any(row.get("phase") == "ranges" for row in rows)
    assert result["accuracy_int8"] > 0.5


def test_what_is_fixed_is_not_asked_for(tmp_path: Path, own_whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = {"classes": ["dog", "cat"], "shape": [1, 6, 6], "mean": [5.0], "std": [3.0]}
    data = {"name": "arrays", "partition": "own", **fixed}
    grid = recorded_world.Recorded(3, recorded_world.as_it_is)
    sent = []

    def note(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type == "query.agree":
            sent.append(from_records(reply.content))
        return reply

    grid.change = note
    recorded_world.go(tmp_path / "run", own_whole / "people", experiment=recorded_world.experiment(data=data),
       engine=recorded_world.over(grid, own_whole / "people", monkeypatch))  # fmt: skip
    assert all(not payload.tensors for payload in sent)
    assert {name for payload in sent for part in payload.values["counts"].values() for name in part} == {"dog", "cat"}
    card = json.loads((tmp_path / "run" / "microcontroller" / "model_card.json").read_text())
    assert card["labels"] == ["dog", "cat"]


def test_tiers_count_the_devices_that_they_have(own_whole: Path, tmp_path: Path) -> None:
    tiers = {"pi": {"devices": 1, "density": 0.4}, "phone": {"devices": 1, "density": 0.2}}
    asked = recorded_world.experiment(rounds=1, method={"name": "magnitude", "density": 0.4}, fleet=tiers)
    result = recorded_world.go(tmp_path / "run", own_whole / "people", experiment=asked)
    assert {name: tier["devices"] for name, tier in result["tiers"].items()} == {"pi": 1, "phone": 2}


def test_export_needs_neither_data_nor_devices(own_whole: Path, tmp_path: Path) -> None:
    from fedprune.runs.outcome import export

    shutil.copytree(own_whole / "run", tmp_path / "run")
    before = (tmp_path / "run" / "model.tflite").read_bytes()
    (tmp_path / "run" / "model.tflite").unlink()
    export(tmp_path / "run", False, None)
    assert (tmp_path / "run" / "model.tflite").read_bytes() == before
