"""Tasks where devices have numbers to predict in tables of their own, keep them private, or get a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_runs import asked, trained

from fedprune.data.agreement import agree, is_agreed, schema_of, tell
from fedprune.data.loading import agreed_here, federation, load_dataset, opened
from fedprune.data.own import read
from fedprune.deployment.device import deploy
from fedprune.deployment.device.models import CARD, name
from fedprune.experiment import Data, Experiment
from fedprune.experiment.own_data import Tables
from fedprune.export import litert
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Reply
from fedprune.graph import inference, trace
from fedprune.runs.pretraining import pretrain
from fedprune.runs.run import train
from fedprune.runs.setting import prepare
from fedprune.tasks import named

_PRICES = Data("tables", partition="own", classes=("price",), tables=Tables(("area", "rooms"), window=2, step=1,
                                                                          targets=("price",)))  # fmt: skip


def _write(folder: Path, rows: np.ndarray, gap: int = -1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prices = 100 + 30 * rows[:, 0] - 10 * rows[:, 1]
    lines = [f"{a:.6f},{b:.6f},{'' if at == gap else f'{p:.6f}'}" for at, ((a, b), p) in
             enumerate(zip(rows, prices, strict=True))]  # fmt: skip
    (folder / f"{len(list(folder.iterdir()))}.csv").write_text("\n".join(["area,rooms,price", *lines]) + "\n")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three devices, each with a dozen files of ten rows."""
    folder = tmp_path_factory.mktemp("people")
    for index, device in enumerate(("attic", "cellar", "kitchen")):
        rng = np.random.default_rng(index)
        for _ in range(12):
            _write(folder / device, rng.normal(index, 1, (10, 2)))
    return folder


def test_a_window_has_the_targets_of_its_last_row(tmp_path: Path) -> None:
    rows = np.arange(8.0).reshape(4, 2)
    _write(tmp_path, rows, gap=2)
    recorded = read(_PRICES, tmp_path)
    # windows of rows 0 to 1, 1 to 2 and 2 to 3, of which the second ends without a price
    assert recorded.targets is not None
    assert recorded.targets.tolist() == [[100 + 30 * 2 - 10 * 3], [100 + 30 * 6 - 10 * 7]]
    assert recorded.inputs[:, 0].tolist() == [[0, 2], [4, 6]]
    assert recorded.labels == ("price", "price")
    assert recorded.problems == ("0.csv: 1 of 3 windows end without a target, and are left out",)
    again = read(_PRICES, tmp_path)  # from what was kept
    assert not again.fresh
    assert again.targets is not None
    assert np.array_equal(again.targets, recorded.targets)


def test_devices_agree_on_the_mean_and_deviation_of_targets_in_any_order(people: Path) -> None:
    each = {folder.name: opened(_PRICES, folder, folder.name) for folder in sorted(people.iterdir())}
    told = {device: tell(_PRICES, found.schema, found.parts) for device, found in each.items()}
    agreed = agree(_PRICES, told)
    assert agree(_PRICES, dict(reversed(told.items()))).settings == agreed.settings
    targets = np.concatenate([found.parts.train.labels for found in each.values()]).astype(np.float64)
    assert agreed.settings.target_mean == pytest.approx([targets.mean()], rel=1e-6)
    assert agreed.settings.target_std == pytest.approx([targets.std()], rel=1e-6)
    assert len(agreed.settings.mean) == 2
    assert is_agreed(agreed.settings)
    assert schema_of(agreed.settings).label_shape == (1,)
    assert agreed_here(_PRICES, str(people)).settings == agreed.settings


def _own(**more: Any) -> Experiment:
    tables = {"signals": ["area", "rooms"], "targets": ["price"], "window": 1}
    data = {"name": "tables", "partition": "own", "tables": tables}
    return asked("own", "table_net", "regression", data=data, method={"name": "magnitude", "density": 0.5}, **more)


def test_tables_of_devices_train_a_regression(people: Path, tmp_path: Path) -> None:
    result = train(_own(rounds=3), tmp_path, data_dir=str(people))
    assert result["metric"]["name"] == "mean absolute error"
    assert result["value_int8"] < 12  # of prices that are 40 apart


def test_a_private_device_says_no_error(tmp_path: Path) -> None:
    method = {"name": "magnitude", "density": 0.5}
    for evaluate in (False, True):
        private = {"epsilon": 0.5, "clip_norm": 10.0, "evaluate": evaluate}
        experiment = asked("prices", "table_net", "regression", method=method, privacy=private, rounds=1)
        rows = trained(experiment, tmp_path / str(evaluate))
        told = {row["phase"]: row.get("value") for row in rows if "phase" in row}
        assert told["train"] is None
        assert (told["evaluate"] is not None) == evaluate


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """A model that has learnt something, and one that says the mean of all prices."""
    setting = prepare(
        asked("prices", "table_net", "regression", pretraining={"epochs": 60, "batch": 8, "learning_rate": 0.02}),
        "test",
    )
    good, bad = setting.model(pretrain(setting).params), setting.model()
    with torch.no_grad():
        bad[-1].weight.zero_()  # type: ignore[index, operator, union-attr]
        bad[-1].bias.zero_()  # type: ignore[index, operator, union-attr]
    found = {}
    for key, model in {"good": good, "bad": bad}.items():
        graph = inference(trace(model, torch.zeros(1, 8)))
        found[key] = litert.write_int8(graph, litert.calibrate(graph, setting.public.inputs))
    return found


def test_a_device_keeps_the_model_that_is_less_far_off(
    models: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(deploy.MODELS_DIR, str(tmp_path / "models"))
    experiment = asked("prices", "table_net", "regression")
    schema = load_dataset(experiment.data.name, None, "regression").schema
    device = Device(0, experiment, schema, federation(experiment).devices[0])

    def brought(key: str) -> dict[str, Any]:
        phase = deploy.deploy({"": models[key]}, key, named("regression"))
        state = State(0, {})
        payload = phase.device(device, phase.request(state, Job()))
        phase.check(state, Job(), payload)
        return phase.reduce(state, [Reply(0, payload)])[0]

    bad, good, again = brought("bad"), brought("good"), brought("bad")
    assert 20 < bad["value"] < 60  # as far as prices are from their mean
    assert good["used"]
    assert good["value"] < good["value_before"] == bad["value"]
    assert (again["used"], again["reason"]) == (False, "its mean absolute error is worse")
    assert again["in_use"]["sha256"] == name(models["good"])
    assert again["in_use"]["value"] == good["value"]
    assert (good["accuracy"], good["metric"]["higher"]) == (None, False)
    card = json.loads((tmp_path / "models" / CARD).read_bytes())
    assert card["value"] == good["value"]
