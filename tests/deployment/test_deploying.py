"""Who gets which model of a run, what is refused before anything is sent, and the rows that a deployment leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from fedprune import models
from fedprune.deployment import deploying, devices, state
from fedprune.deployment.delivering import deliver
from fedprune.deployment.deploying import DEPLOYED, PLAN, ROWS, targets
from fedprune.deployment.device import models as shelf
from fedprune.deployment.device.app import device_app
from fedprune.deployment.device.deploy import MODELS_DIR
from fedprune.deployment.fleet_files import delivered
from fedprune.deployment.fleet_folder import Fleet, FleetError, create
from fedprune.experiment import Experiment, ExperimentError, load, to_json
from fedprune.export import litert
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.graph import inference, trace
from fedprune.runs.folder_files import FORMS, SHIPPED, Checked, Result, TierResult, Worst

_DIGITS = Path(__file__).parents[2] / "simulations" / "digits.toml"
_TIERS = ["data.devices=2", "fleet.large.devices=1", "fleet.small.devices=1", "fleet.chip={devices=1, trains=false}"]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create(tmp_path / "fleet", ["server.example"])


@pytest.fixture
def ended(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes the folder of a run of two devices which has ended, with a file of its own a tier."""

    def make(*settings: str) -> Path:
        run = tmp_path / "run"
        experiment = load(_DIGITS, settings or ["data.devices=2"])
        for tier in ("", *experiment.fleet):
            path = deploying.file(run, tier)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(len(tier))
            net = models.build("digits_cnn", (1, 8, 8), 10).eval()
            path.write_bytes(litert.write_float(inference(trace(net, torch.zeros(1, 1, 8, 8)))))
        (run / "experiment.json").write_text(to_json(experiment))
        (run / "result.json").write_bytes(msgspec.json.encode(_result(experiment)))
        return run

    return make


def _result(experiment: Experiment) -> Result:
    """The result of a run of two devices, every number 0."""
    worst = Worst(device=0, accuracy=0.0)
    tiers = {
        name: TierResult(name, "", 1, 0.0, 0.0, 0.0, worst, {}, 0, 0, None, 0, 0, 0, fits=True, bytes={})
        for name in experiment.fleet
    }
    checks, sizes = dict.fromkeys(FORMS, Checked(0, None, None)), dict.fromkeys(SHIPPED, 0)
    return Result(
        experiment.name, "", "", "", devices=2, rounds=0, seed=0, accuracy_float=0.0, accuracy_int8=0.0, density=0.0,
        density_all=0.0, parameters=0, parameters_kept=0, arena_bytes=None, bytes=sizes, bytes_up=0, bytes_down=0,
        checks=checks, versions={}, tiers=tiers,
    )  # fmt: skip


def _enrol(fleet: Fleet, *names: str, tiers: dict[str, str] | None = None) -> None:
    for name in names:
        device, _ = devices.enrol(fleet, name, tier=(tiers or {}).get(name))
        known = msgspec.structs.replace(device, node=str(1000 + device.partition))  # as a local grid counts
        (fleet.devices / f"{name}.json").write_bytes(msgspec.json.encode(known))


def _tiers(fleet: Fleet, run: Path, *names: str) -> dict[str, str]:
    return {target.name: target.tier for target in targets(fleet, run, names)}


def test_devices_get_the_model_of_their_tier(fleet: Fleet, ended: Callable[..., Path]) -> None:
    _enrol(fleet, "kitchen", "attic", "cellar")
    assert _tiers(fleet, ended()) == {"kitchen": "", "attic": ""}  # the run has two
    run = ended(*_TIERS)
    assert _tiers(fleet, run) == {"kitchen": "large", "attic": "small"}
    assert _tiers(fleet, run, "attic") == {"attic": "small"}


def test_the_tier_that_a_device_was_enrolled_with_comes_before_its_place(
    fleet: Fleet, ended: Callable[..., Path]
) -> None:
    _enrol(fleet, "kitchen", "attic", tiers={"kitchen": "small"})
    assert _tiers(fleet, ended(*_TIERS)) == {"kitchen": "small", "attic": "small"}


def test_what_cannot_be_deployed_is_refused_in_one_line(fleet: Fleet, ended: Callable[..., Path]) -> None:
    run = ended()

    def refusal(*names: str) -> str:
        with pytest.raises(ExperimentError) as caught:
            targets(fleet, run, names)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no device is enrolled for the 2 of" in refusal()
    _enrol(fleet, "kitchen", "attic", "cellar", tiers={"attic": "pi"})
    assert "--device nobody: not enrolled" in refusal("nobody")
    assert "--device cellar: has partition 2" in refusal("cellar")
    with pytest.raises(FleetError, match="no server runs here"):
        deploying.submit(fleet, run, targets(fleet, run))
    assert not deploying.folder(fleet).exists()
    ended(*_TIERS)
    assert "has the tiers large, small, chip, but attic is enrolled as pi" in refusal()
    (run / "tiers" / "large" / "model.tflite").unlink()
    assert "large/model.tflite: missing; write it again with" in refusal("kitchen")
    (run / "result.json").unlink()
    assert "no result yet" in refusal()
    (run / "experiment.json").unlink()
    assert "not a run's folder" in refusal()


def test_rows_say_who_has_what_and_a_device_that_is_away_gets_it_the_next_time(
    fleet: Fleet, ended: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_DIR, str(tmp_path / "models"))  # one folder for both: they take turns here
    _enrol(fleet, "kitchen", "attic")
    run, out = ended(), deploying.folder(fleet)
    out.mkdir()
    lines: list[dict[str, Any]] = []

    def bring(there: int) -> list[dict[str, Any]]:
        (out / PLAN).write_bytes(msgspec.json.encode(targets(fleet, run)))
        with LocalGrid(device_app, there) as grid:
            return deliver(grid, run, out, lines.append)

    first = bring(1)
    assert [(row["name"], row["answered"], row["used"]) for row in first] == [
        ("kitchen", True, True),
        ("attic", False, False),
    ]
    assert (first[1]["reason"], first[1]["in_use"]) == ("not connected", None)
    assert delivered(run / DEPLOYED) == delivered(out / ROWS) == first
    assert delivered(fleet.path / DEPLOYED) == first[:1]
    shown = {one.name: one.model for one in state.look(fleet).devices}
    sha256 = shelf.name((run / "model.tflite").read_bytes())
    assert shown == {"kitchen": f"digits {sha256[:8]} {100 * first[0]['accuracy']:.1f} %", "attic": ""}

    second = bring(2)
    assert [(row["name"], row["used"], row["reason"]) for row in second] == [
        ("kitchen", True, "already in use"),
        ("attic", True, "already in use"),
    ]
    assert delivered(fleet.path / DEPLOYED) == second
    assert bring(0)[0]["reason"] == "not connected"
    assert delivered(run / DEPLOYED) == delivered(fleet.path / DEPLOYED) == second  # what they still have
    assert [line["phase"] for line in lines] == ["deploy", "deploy"]
    devices.revoke(fleet, "kitchen")
    _enrol(fleet, "kitchen")
    record = fleet.devices / "kitchen.json"
    record.write_text(record.read_text().replace('"1000"', '"77"'))  # another key is another node to Flower
    assert [bool(one.model) for one in state.look(fleet).devices] == [False, True]
    (fleet.path / DEPLOYED).write_text("[{")
    assert [one.model for one in state.look(fleet).devices] == ["", ""]


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[{}]", b"[" * 100_000, b"\xff", b'[{"name": 1}]', b'{"7": [1]}', b'{"7": {"rounds": "x"}}'],
)
def test_what_runs_left_of_devices_is_left_out_where_damaged(fleet: Fleet, tmp_path: Path, content: bytes) -> None:
    _enrol(fleet, "kitchen")
    (fleet.runs / "one").mkdir()
    for file in (fleet.path / DEPLOYED, fleet.runs / "one" / "devices.json", fleet.runs / "one" / "run_id"):
        file.write_bytes(content)
    (one,) = state.look(fleet).devices
    assert (one.name, one.rounds, one.model) == ("kitchen", 0, "")
