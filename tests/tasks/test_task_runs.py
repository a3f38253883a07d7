"""Small federated runs of every task: what devices train, tell, compare and export is the task's own."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_world
import torch
from rich.console import Console
from task_runs import HERE, asked, trained

from fedprune.cli.ended import summary
from fedprune.experiment import ExperimentError, from_json, to_json, to_toml
from fedprune.export.chip import benching
from fedprune.export.litert.reader import read
from fedprune.runs.folder import RunFolder
from fedprune.runs.live.metrics_text import metrics_text
from fedprune.runs.live.picture import Seen, picture
from fedprune.runs.run import simulate, train
from fedprune.runs.setting import Setting, prepare


@pytest.mark.parametrize(
    ("data", "net", "task", "metric", "far"),
    [
        ("prices", "table_net", "regression", "mean absolute error", 20.0),
        ("two_targets", "table_net", "regression", "mean absolute error", 300.0),
        ("tags", "table_net", "multi_label", "F1", 0.55),
        ("counting", "token_net", "next_token", "token accuracy", 0.45),
        ("shapes", "map_net", "segmentation", "mean IoU", 0.42),
        ("distances", "map_net", "depth", "mean absolute error", 350.0),
    ],
)
def test_devices_learn_a_task_and_every_line_names_its_metric(
    data: str, net: str, task: str, metric: str, far: float, tmp_path: Path
) -> None:
    rows = trained(asked(data, net, task), tmp_path)
    judged = [row for row in rows if row.get("value") is not None]
    assert {row["metric"]["name"] for row in judged} == {metric}
    assert not any(row.get("accuracy") for row in rows)
    tests = [row for row in judged if row.get("phase") == "evaluate"]
    higher = tests[0]["metric"]["higher"]
    first, last = tests[0]["value"], tests[-1]["value"]
    assert last >= max(first, far) if higher else last <= min(first, far)
    assert tests[-1]["loss"] < tests[0]["loss"]
    worst = tests[-1]["worst"]["value"]
    assert worst <= last if higher else worst >= last


@pytest.mark.parametrize(("data", "net"), [("yes_or_no", "one_logit"), ("yes", "table_net")])
def test_one_logit_is_a_classification_of_two(data: str, net: str, tmp_path: Path) -> None:
    experiment = asked(data, net, "classification", rounds=4, data={
        "name": f"task_world:{data}", "devices": 3, "partition": "dirichlet", "alpha": 5.0, "public": 0.1
    })  # fmt: skip
    rows = [row for row in trained(experiment, tmp_path) if row.get("phase") == "evaluate"]
    assert rows[-1]["accuracy"] > 0.65
    assert all("metric" not in row for row in rows)


def test_a_regression_is_exported_and_everything_says_how_far_off_it_is(tmp_path: Path) -> None:
    result = simulate(asked("prices", "table_net", "regression", rounds=3), tmp_path, engine=HERE)
    assert result["metric"] == {"name": "mean absolute error", "unit": "", "higher": False}
    assert (result["accuracy_float"], result["accuracy_int8"]) == (None, None)
    assert 0 < result["value_int8"] < 20
    assert abs(result["value_int8"] - result["value_float"]) <= result["checks"]["litert_int8"]["agreement"] < 5
    shown = f"{result['value_int8']:.4g}"
    card = json.loads((tmp_path / "microcontroller" / "model_card.json").read_text())
    assert card["labels"] == ["price"]
    assert card["target_mean"] == [pytest.approx(300, abs=20)]
    page = (tmp_path / "microcontroller" / "model_card.md").read_text()
    assert f"| Mean absolute error | {shown} |" in page
    assert "## Targets" in page
    report = (tmp_path / "report.html").read_text()
    assert "<h2>Mean absolute error by round</h2>" in report
    assert f"<b>{shown}</b>mean absolute error, int8" in report
    assert not re.search("accuracy", "".join((page, report)), re.IGNORECASE)
    console = Console(record=True, width=200)
    summary(console, RunFolder(tmp_path).read_result(), tmp_path)
    told = console.export_text()
    assert re.search(rf"mean absolute error, model.tflite +{re.escape(shown)}; mean absolute difference", told)
    assert "accuracy" not in told
    live = picture(Seen(from_json(to_json(asked("prices", "table_net", "regression"))), RunFolder(tmp_path).rows()), 0)
    assert live["metric"]["name"] == "mean absolute error"
    assert live["parts"][""]["value"] == pytest.approx(result["value_float"], rel=1e-5)
    assert 'fedprune_test_value{part="",metric="mean absolute error"}' in metrics_text(live)


def test_a_net_of_tokens_is_exported_with_integers_at_its_door(tmp_path: Path) -> None:
    experiment = asked("counting", "token_net", "next_token")
    result = simulate(experiment, tmp_path, engine=HERE)
    checks = result["checks"]
    assert checks["litert_float"]["agreement"] == 1
    assert checks["litert_int8"]["examples"] == checks["litert_float"]["examples"] > 0
    assert checks["litert_int8"]["agreement"] > 0.9
    assert result["int8_loss"] == pytest.approx(result["value_float"] - result["value_int8"])
    file = read((tmp_path / "model.tflite").read_bytes())
    assert file.tensors[file.inputs[0]].dtype == np.int32  # tokens, no quantities
    assert "no_c" not in result
    _tokens_in_c(prepare(experiment, "test"), tmp_path / "microcontroller")


def _tokens_in_c(setting: Setting, folder: Path) -> None:
    """Files for a chip take tokens, name them, and compute what TensorFlow Lite Micro does, place by place."""
    card = json.loads((folder / "model_card.json").read_text())
    assert card["input"] == {"shape": [1, 6], "dtype": "int32", "vocabulary": 5}
    assert card["output"]["shape"] == [1, 6, 5]
    assert card["vocabulary"] == card["labels"] == [*"abcde"]
    assert not {"mean", "std"} & card.keys()
    assert "tokens, 0 to 4, numbered as the labels are" in (folder / "model_card.md").read_text()
    headers = [(folder / name).read_text() for name in ("model.h", "model_data.h")]
    for macro in ("MODEL_INPUT_TOKENS 6", "MODEL_INPUT_VOCABULARY 5", "MODEL_INPUT_BYTES 24"):
        assert all(f"#define {macro}\n" in header for header in headers), macro
    assert "int32_t *model_input(void);" in headers[0]
    assert '#define MODEL_LABELS {"a", "b", "c", "d", "e"}\n' in headers[0]
    assert not any(word in header for word in ("MEAN", "input_mean", "MODEL_INPUT_SCALE") for header in headers)
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("make or a compiler is not installed")
    tokens = setting.public.inputs.astype(np.int32)
    tokens.tofile(folder / "inputs.bin")
    said = subprocess.run(["make", "-s", "run"], cwd=folder, check=True, capture_output=True, text=True).stdout
    found = np.fromfile(folder / "outputs.bin", np.int8).reshape(len(tokens), 6, 5)
    assert json.loads(said)["last_class"] == found[-1, -1].argmax()  # of the last place, what comes next
    wanted, _ = benching.expected((folder / "model.tflite").read_bytes(), tokens)
    np.testing.assert_array_equal(found.reshape(len(tokens), -1), wanted)
    assert (found.argmax(-1) == setting.public.labels).mean() > 0.5


def test_one_holder_of_all_data_does_as_well(tmp_path: Path) -> None:
    result = train(asked("prices", "table_net", "regression", rounds=3), tmp_path)
    assert result["value_float"] < 20


def test_a_tier_is_judged_by_the_task_too(tmp_path: Path) -> None:
    fleet = {"large": {"devices": 2}, "small": {"devices": 1, "density": 0.2}}
    data = {"name": "task_world:prices", "partition": "iid", "public": 0.1}
    result = simulate(asked("prices", "table_net", "regression", data=data, fleet=fleet), tmp_path, engine=HERE)
    small = result["tiers"]["small"]
    told = {key: value for key, value in small["value_by_device"].items() if value is not None}
    assert small["worst_device"]["value"] == max(told.values())
    card = (tmp_path / "tiers" / "small" / "card.md").read_text()
    assert f"Mean absolute error, int8, all test parts | {small['value_int8']:.4g} |" in card


def test_class_weights_and_smoothing_are_in_the_loss_alone(tmp_path: Path) -> None:
    more = {"training": {"batch": 16, "class_weights": "balanced", "label_smoothing": 0.1, "learning_rate": 0.1}}
    plain, changed = (asked("yes_or_no", "table_net", "classification", **each) for each in ({}, more))
    assert from_json(to_json(changed)) == changed
    assert to_toml(changed).count("class_weights") == 1
    setting = prepare(changed, "test")
    labels = setting.public.labels
    ones = np.mean(labels == 1)
    # smoothing moves a twentieth of the weight from either class to the other
    own = np.array([0.5 / (1 - ones), 0.5 / ones])
    assert _weights(setting) == pytest.approx(tuple(0.95 * own + 0.05 * own[::-1]), rel=1e-5)
    rows = [row for row in trained(changed, tmp_path) if row.get("phase") == "evaluate"]
    assert rows[-1]["accuracy"] > 0.5
    assert "label_smoothing" not in to_json(plain)


def _weights(setting: Setting) -> tuple[float, ...]:
    """Of both classes, by what an example of each costs where nothing is known of it."""
    even = torch.zeros(1, 2)
    return tuple(setting.task.loss(even, torch.tensor([label])).item() / math.log(2) for label in (0, 1))


@pytest.mark.parametrize(
    ("data", "net", "task", "more", "said"),
    [
        ("prices", "table_net", "prediction", {}, "task: 'prediction' is none of classification"),
        ("prices", "table_net", "task_world:nothing", {}, "task: task_world:nothing: AttributeError"),
        ("prices", "table_net", "classification", {}, r"train labels are float32 .*, expected one class"),
        ("yes_or_no", "table_net", "regression", {}, r"expected \(n, 2\)"),
        ("shapes", "table_net", "segmentation", {}, r"outputs have shape \(n, 2\), expected \(n, 2, 8, 8\)"),
        ("counting", "token_net", "classification", {}, r"train labels have shape \(240, 6\), expected \(n,\)"),
        ("prices", "table_net", "regression", {"method": {"name": "lottery_fl", "density": 0.5}},
         "method.name: lottery_fl asks for the accuracy of classes"),
        ("prices", "table_net", "regression", {"method": {"name": "kd_dp", "density": 0.5}},
         "method.name: kd_dp trains by classes"),
        ("prices", "table_net", "regression", {"data": {"name": "task_world:prices", "devices": 3}},
         'dirichlet deals by class, and an example of task regression has none; write partition = "iid"'),
        ("yes_or_no", "table_net", "classification", {"training": {"class_weights": [1, 2, 3]}},
         "training.class_weights: 3 for 2 classes"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line_before_any_training(
    data: str, net: str, task: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExperimentError, match=said) as caught:
        prepare(asked(data, net, task, **more), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "table", "task"),
    [
        ("training.label_smoothing", {"training": {"label_smoothing": 0.1}}, "regression"),
        ("training.class_weights", {"training": {"class_weights": "even"}}, "classification"),
        ("data.target_mean", {"data": {"name": "digits", "devices": 2, "target_mean": [1.0]}}, "regression"),
        ("data.tables.targets", {"data": {"name": "tables", "partition": "own", "tables": {"signals": ["a"]}}},
         "regression"),
        ("data.tables.targets", {"data": {"name": "tables", "partition": "own",
                                          "tables": {"signals": ["a"], "targets": ["b"]}}}, "classification"),
    ],
)  # fmt: skip
def test_keys_that_contradict_a_task_are_named(key: str, table: dict[str, Any], task: str) -> None:
    with pytest.raises(ExperimentError, match=re.escape(f"test: {key}")):
        asked("prices", "table_net", task, **table)


def test_the_world_is_learnable() -> None:
    assert task_world.prices().train.labels.std() > 30
