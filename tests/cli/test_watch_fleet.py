"""The live page of a fleet's run: before it has begun, while its server waits, and with devices by name."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedprune.cli.watch import Watched
from fedprune.deployment import devices
from fedprune.deployment.fleet_folder import create
from fedprune.experiment import ExperimentError, load, to_json, to_toml

_DIGITS = load(Path(__file__).parents[2] / "simulations" / "digits.toml", ["data.devices=3", "rounds=4"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was submitted a moment ago."""
    fleet = create(tmp_path / "fleet", ["server.example"])
    for name in ("kitchen", "attic", "cellar"):
        device, _ = devices.enrol(fleet, name)
        known = msgspec.structs.replace(device, node=str(1000 + device.partition))
        (fleet.devices / f"{name}.json").write_bytes(msgspec.json.encode(known))
    folder = fleet.runs / "digits"
    folder.mkdir()
    (folder / "experiment.toml").write_text(to_toml(_DIGITS))
    (folder / "run_config.toml").write_text("")
    (folder / "progress.jsonl").write_text("")
    return folder


def _say(run: Path, row: dict[str, Any]) -> None:
    with (run / "progress.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_a_run_that_was_submitted_waits_for_devices_and_is_a_runs_folder(run: Path) -> None:
    watched = Watched(run)
    seen = watched.picture()
    assert (seen["name"], seen["rounds_asked"], seen["state"]) == ("digits", 4, "waiting")
    assert seen["said"] == "Submitted: the server's app starts, and waits for devices."
    _say(run, {"notice": "waiting for 1 of 3 devices: attic"})
    assert watched.picture()["said"].endswith("waits for devices. Last: waiting for 1 of 3 devices: attic")
    (run / "experiment.json").write_text(to_json(_DIGITS))
    assert watched.picture()["state"] == "preparing"
    _say(run, {"epoch": 1})
    assert "Last" not in watched.picture()["said"]
    (run.parents[1] / "config.toml").unlink()  # no fleet's any more
    (run / "experiment.json").unlink()
    with pytest.raises(ExperimentError, match="not a run's folder"):
        Watched(run)


def test_devices_are_shown_by_name_and_with_why_they_cannot_take_part(run: Path) -> None:
    (run / "experiment.json").write_text(to_json(_DIGITS))
    row = {"round": 1, "phase": "train", "asked": [0, 1], "devices": 1, "seconds": 1.0, "accuracy": 0.5}
    row |= {"faults": {"0": "ValueError: NaN"}, "absent": {"2": "not connected"}}
    row |= {"strangers": {"1002": "ValueError: no column ax", "7": "says nothing"}}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    seen = Watched(run).picture()
    assert [(line["device"], line["last_fault"], line["away"], line["away_why"]) for line in seen["devices"]] == [
        ("kitchen", "ValueError: NaN", "", ""), ("attic", "", "", ""),
        ("cellar", "", "absent", "ValueError: no column ax"),
    ]  # fmt: skip
    assert seen["strangers"] == {"1002 (cellar)": "ValueError: no column ax", "7": "says nothing"}
