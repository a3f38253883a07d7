"""Phase deploy, the device's half over the real interpreter: what a device takes into use, refuses and recovers."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
import torch

from fedprune.data.loading import federation, load_dataset
from fedprune.deployment.device import deploy
from fedprune.deployment.device import models as shelf
from fedprune.deployment.device.app import device_app
from fedprune.deployment.device.models import CARD, CURRENT, Card
from fedprune.export import litert
from fedprune.federated.link.asking import Link
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds import phases
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.standing import Step
from fedprune.graph import inference, trace
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import prepare
from fedprune.wire.payload import Payload

_ASKED = tiny_world.experiment()
_HERE = 1  # the device that gets models


def _exported(model: torch.nn.Module) -> bytes:
    graph = inference(trace(model, torch.zeros(1, *tiny_world.SHAPE)))
    seen = load_dataset("tiny_world:load").normalise(tiny_world.examples(60, 5).inputs)
    return litert.write_int8(graph, litert.calibrate(graph, seen))


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """A model that has learnt something, one that says the same class for everything, and one of another task."""
    more = {"data": {**_data(), "public": 0.5}, "pretraining": {"epochs": 40, "batch": 8}}
    setting = prepare(tiny_world.experiment(**more), "test")
    good, bad = setting.model(pretrain(setting).params), setting.model()
    with torch.no_grad():
        bad[-1].weight.zero_()  # type: ignore[index, operator, union-attr]
        bad[-1].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))  # type: ignore[index, operator, union-attr]
    graph = inference(trace(tiny_world.net((2, 5, 5), 4).eval(), torch.zeros(1, 2, 5, 5)))
    other = litert.write_int8(graph, litert.calibrate(graph, np.ones((1, 2, 5, 5), np.float32)))
    return {"good": _exported(good), "bad": _exported(bad), "other": other}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's folder of models, which does not exist yet."""
    monkeypatch.setenv(deploy.MODELS_DIR, str(tmp_path / "models"))
    return tmp_path / "models"


def _ask(phase: phases.Phase, jobs: dict[int, Job]) -> Step:
    with LocalGrid(device_app, 4) as grid:
        nodes = dict(enumerate(grid.get_node_ids()))
        return Link(grid, _ASKED).ask(phase, State(0, {}), Fleet(nodes, ()), jobs, 0, least=0.0)


def _brought(model: bytes, run: str = "tiny", tier: str = "") -> dict[str, Any]:
    """What the device says of a model that crossed the grid."""
    step = _ask(deploy.deploy({tier: model}, run), {_HERE: Job(part=tier)})
    assert step.row["faults"] == {}
    told: dict[str, Any] = step.answer[_HERE]
    return told


def _device(**changes: Any) -> Device:
    asked = tiny_world.experiment(**changes)
    return Device(_HERE, asked, load_dataset(asked.data.name).schema, federation(asked).devices[_HERE])


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _file(model: bytes) -> str:
    return f"{shelf.name(model)}.tflite"


def _card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CARD).read_bytes())
    return found


def test_the_first_model_is_taken_and_measured(models: dict[str, bytes], folder: Path) -> None:
    said = _brought(models["good"], "first", "pi")
    tested = _device().parts.test
    outputs = litert.run(models["good"], load_dataset("tiny_world:load").normalise(tested.inputs))
    accuracy = float(np.mean(outputs.argmax(1) == tested.labels))
    assert accuracy > 0.5  # or nothing could be worse
    assert (said["used"], said["reason"], said["accuracy"], said["accuracy_before"]) == (True, "", accuracy, None)
    assert 0 < said["latency_ms"]["median"] <= said["latency_ms"]["p90"]
    assert 0 < said["memory_bytes"] < 2**26  # of the model, not of Python
    assert said["in_use"] == {"sha256": shelf.name(models["good"]), "run": "first", "accuracy": accuracy}
    assert (folder / CURRENT).read_bytes() == models["good"]
    assert os.readlink(folder / CURRENT) == _file(models["good"])
    card = _card(folder)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", card.pop("time"))
    assert card == {"sha256": shelf.name(models["good"]), "run": "first", "tier": "pi", "accuracy": accuracy,
                    "previous": None}  # fmt: skip
    assert _files(folder) == {CURRENT, CARD, _file(models["good"])}


def test_a_better_one_replaces_it_and_the_one_before_is_kept_but_not_older_ones(
    models: dict[str, bytes], folder: Path
) -> None:
    older = _file(b"an older one")
    folder.mkdir()
    (folder / older).write_bytes(b"an older one")
    (folder / f".{older}.123").write_bytes(b"half of one")
    (folder / "notes.txt").write_text("somebody's own")
    bad, good = _brought(models["bad"], "bad"), _brought(models["good"], "good")
    assert good["used"]
    assert good["accuracy"] > good["accuracy_before"] == bad["accuracy"]
    assert (folder / CURRENT).read_bytes() == models["good"]
    assert _card(folder)["previous"] == shelf.name(models["bad"])
    assert _files(folder) == {CURRENT, CARD, _file(models["good"]), _file(models["bad"]), "notes.txt"}


def test_a_worse_one_is_not_taken(models: dict[str, bytes], folder: Path) -> None:
    _brought(models["good"], "good")
    card = _card(folder)
    said = _brought(models["bad"], "bad")
    assert (said["used"], said["in_use"]["run"]) == (False, "good")
    assert said["accuracy"] < said["accuracy_before"] == said["in_use"]["accuracy"]
    assert said["reason"] == "gets less right than the one in use"
    assert (folder / CURRENT).read_bytes() == models["good"]
    assert _card(folder) == card
    assert _files(folder) == {CURRENT, CARD, _file(models["good"])}


def test_the_same_one_again_is_in_use_already_and_tested_again(models: dict[str, bytes], folder: Path) -> None:
    _brought(models["bad"])
    once, twice = _brought(models["good"], "once"), _brought(models["good"], "twice")
    assert (twice["used"], twice["reason"]) == (True, "already in use")
    assert twice["accuracy"] == twice["accuracy_before"] == once["accuracy"]
    assert twice["latency_ms"]["median"] > 0
    assert _card(folder)["previous"] == shelf.name(models["bad"])
    assert (folder / _file(models["bad"])).exists()


def test_what_is_damaged_on_the_way_changes_nothing(models: dict[str, bytes], folder: Path) -> None:
    _brought(models["good"], "good")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    content = np.frombuffer(models["bad"][:-1] + b"\x55", np.uint8)
    request = Payload({"sha256": shelf.name(models["bad"]), "run": "x", "tier": ""}, {"model": content})
    said = deploy.device(_device(), request).values
    assert (said["used"], said["in_use"]["run"]) == (False, "good")
    assert "what came is not what was sent" in said["reason"]
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut", "other bytes", "another task"])
def test_a_model_that_does_not_run_here_is_not_taken(models: dict[str, bytes], folder: Path, damage: str) -> None:
    good = models["good"]
    file = {"cut": good[: len(good) // 2], "other bytes": b"no model", "another task": models["other"]}[damage]
    first = _brought(file)
    assert (first["used"], first["in_use"], first["accuracy"]) == (False, None, None)
    assert first["reason"]
    assert _files(folder) == set()
    _brought(good, "good")
    said = _brought(file)
    assert (said["used"], said["in_use"]["sha256"], said["latency_ms"]) == (False, shelf.name(good), None)
    assert ("do not fit a model that takes (2, 5, 5)" in said["reason"]) == (damage == "another task")
    assert (folder / CURRENT).read_bytes() == good
    assert _files(folder) == {CURRENT, CARD, _file(good)}


def test_one_in_use_that_cannot_be_tested_gives_way(models: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    (folder / CURRENT).write_bytes(models["other"])  # as somebody put it there
    said = _brought(models["good"])
    assert (said["used"], said["accuracy_before"]) == (True, None)
    assert "the one before could not be tested: inputs of shape" in said["reason"]
    assert os.readlink(folder / CURRENT) == _file(models["good"])
    assert (folder / _file(models["other"])).read_bytes() == models["other"]
    assert _card(folder)["previous"] == shelf.name(models["other"])


def test_without_a_runtime_the_reason_says_what_to_install(
    models: dict[str, bytes], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _brought(models["bad"])
    (tmp_path / "hides").mkdir()
    for name in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / "hides" / f"{name}.py").write_text("raise ImportError('not here')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "hides"))
    said = _brought(models["good"])
    assert not said["used"]
    assert "no runtime for .tflite files is installed: pip install ai-edge-litert" in said["reason"]
    assert (folder / CURRENT).read_bytes() == models["bad"]


def test_a_runtime_that_crashes_takes_nothing_with_it(
    models: dict[str, bytes], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies").mkdir()
    (tmp_path / "dies" / "ai_edge_litert.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.syspath_prepend(str(tmp_path / "dies"))
    said = _brought(models["good"])
    assert (said["used"], said["in_use"]) == (False, None)
    assert "SIGSEGV" in said["reason"]


def test_a_folder_of_models_that_is_a_link_is_not_followed(
    models: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    folder.symlink_to(tmp_path / "outside")
    step = _ask(deploy.deploy({"": models["good"]}, "tiny"), {_HERE: Job()})
    assert step.row["faults"][str(_HERE)].startswith(f"ValueError: {folder} is a link; ")
    assert not list((tmp_path / "outside").iterdir())


def test_without_test_examples_a_model_that_runs_is_taken_and_that_is_said(models: dict[str, bytes]) -> None:
    device = _device(data={**_data(), "test": 0.0})
    assert not len(device.parts.test)
    for name, seen in (("good", "good"), ("bad", "bad")):
        values = {"sha256": shelf.name(models[name]), "run": seen, "tier": ""}
        said = deploy.device(device, Payload(values, {"model": np.frombuffer(models[name], np.uint8)})).values
        assert (said["used"], said["seen"]) == (True, 0)
        assert said["reason"] == "no test examples here: taken into use without a test"
    told = deploy.reduce(State(0, {}), [phases.Reply(_HERE, Payload(said))])[_HERE]
    assert (told["accuracy"], told["accuracy_before"]) == (None, None)
    assert told["in_use"] == {"sha256": shelf.name(models["bad"]), "run": "bad", "accuracy": None}


@pytest.mark.parametrize(("evaluate", "seen"), [(False, False), (True, True)])
def test_an_experiment_with_privacy_learns_no_counts_unless_it_asks_for_them(
    models: dict[str, bytes], evaluate: bool, seen: bool
) -> None:
    device = _device(privacy={"epsilon": 0.5, "evaluate": evaluate})
    for name in ("good", "bad"):
        values = {"sha256": shelf.name(models[name]), "run": name, "tier": ""}
        said = deploy.device(device, Payload(values, {"model": np.frombuffer(models[name], np.uint8)})).values
    assert (said["used"], said["in_use"]["run"]) == (False, "good")  # it still compares them itself
    assert (bool(said["seen"]), bool(said["correct"]), said["before_correct"] is not None) == (seen, seen, seen)


def _data() -> dict[str, Any]:
    return {"name": "tiny_world:load", "partition": "dirichlet", "devices": 4, "alpha": 1.0, "public": 0.2}


@pytest.mark.parametrize("loss", ["folder", "card", "link", "model", "bits"])
def test_what_a_device_lost_is_brought_again(models: dict[str, bytes], folder: Path, loss: str) -> None:
    good = models["good"]
    _brought(good, "good")
    if loss == "folder":
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    elif loss == "bits":
        (folder / _file(good)).write_bytes(good[:-1] + b"\x55")
        assert shelf.in_use(folder) is None
    else:
        (folder / {"card": CARD, "link": CURRENT, "model": _file(good)}[loss]).unlink()
    said = _brought(good, "again")
    assert said["used"]
    assert (folder / CURRENT).read_bytes() == good
    assert (_card(folder)["run"], _files(folder)) == ("again", {CURRENT, CARD, _file(good)})


class PowerCut(BaseException):
    """Nothing runs after it."""


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """A function that lets so many of the system's writing calls through, and then cuts the power."""
    left, made = [sys.maxsize], list[str]()
    calls = {name: getattr(os, name) for name in ("replace", "symlink", "unlink", "fsync")}
    for name in calls:

        def limited(*words: Any, name: str = name, call: Any = calls[name], **more: Any) -> Any:
            if left[0] <= 0:
                raise PowerCut
            left[0] -= 1
            made.append(name)
            return call(*words, **more)

        monkeypatch.setattr(os, name, limited)

    def lasts(calls: int) -> list[str]:
        left[0] = calls
        made.clear()
        return made

    return lasts


def test_power_lost_between_any_two_steps_leaves_a_whole_model(folder: Path, power: Callable[[int], list[str]]) -> None:
    first, second, third = (bytes([number]) * 5000 for number in (1, 2, 3))

    def bring(model: bytes) -> None:
        before = shelf.in_use(folder)
        shelf.put(folder, model)
        same = before is not None and before.sha256 == shelf.name(model)
        previous = before and (before.previous if same else before.sha256)
        shelf.take(folder, Card(shelf.name(model), f"run {model[0]}", previous=previous))
        shelf.tidy(folder)

    interrupted = 0
    for calls in range(100):
        power(sys.maxsize)
        for file in folder.iterdir() if folder.exists() else ():
            file.unlink()
        folder.mkdir(exist_ok=True)
        bring(first)
        bring(second)
        made = power(calls)
        try:
            bring(third)
        except PowerCut:
            interrupted += 1
        else:
            break
        power(sys.maxsize)
        assert (folder / CURRENT).read_bytes() in (second, third), made
        found = shelf.in_use(folder)
        assert found is not None
        assert (folder / _file((folder / CURRENT).read_bytes())).exists()
        assert found.previous is not None
        assert (folder / f"{found.previous}.tflite").exists(), made
        bring(third)  # when the power is back
        assert _files(folder) == {CURRENT, CARD, _file(third), _file(second)}, made
        card = _card(folder)
        assert (card["sha256"], card["run"], card["previous"]) == (shelf.name(third), "run 3", shelf.name(second))
    assert interrupted >= 8  # two files, a link, their folder
    assert made[-1] == "unlink"
    assert (folder / CURRENT).read_bytes() == third


def test_each_tier_gets_its_own_and_one_device_that_fails_stops_no_other(
    models: dict[str, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = deploy.deploy({"large": models["good"], "small": models["bad"]}, "tiny")
    jobs = {0: Job(part="large"), 2: Job(part="small")}
    with LocalGrid(device_app, 4) as grid:
        nodes = dict(enumerate(grid.get_node_ids()))
        nodes[3] = 9999  # a node that claims to be a device that it is not
        step = Link(grid, _ASKED).ask(
            phase, State(0, {}), Fleet(nodes, ()), {**jobs, 3: Job(part="small")}, 0, least=0.0
        )
    told = {index: (step.answer or {}).get(index) for index in range(4)}
    assert [index for index, each in told.items() if each] == [0, 2]
    assert list(step.row["faults"]) == ["3"]
    assert told[0] is not None
    assert told[0]["in_use"]["sha256"] == shelf.name(models["good"])


_HONEST: dict[str, Any] = {
    "device": _HERE, "seen": 9, "correct": 5, "before_correct": None, "latency_ms": [1.0, 2.0], "peak_bytes": 10,
    "used": True, "reason": "", "in_use": {"sha256": shelf.name(b"model"), "run": "r"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"correct": 10}, "more hits than examples"),
        ({"before_correct": -1}, "before_correct is -1"),
        ({"seen": 1.5}, "seen is 1.5"),
        ({"latency_ms": [1.0]}, "latency_ms"),
        ({"latency_ms": [1.0, "x"]}, "latency_ms is 'x'"),
        ({"peak_bytes": "much"}, "peak_bytes is 'much'"),
        ({"reason": "a\x1b[31m"}, "expected a line of text"),
        ({"reason": "a" * 10_000}, "expected a line of text"),
        ({"in_use": {"sha256": "x"}}, "expected a sha256 and a run"),
        ({"in_use": {"sha256": "x", "run": "r"}}, "used is True"),
        ({"in_use": None}, "used is True"),
        ({"used": False}, "used is False"),
        ({"used": 1}, "used is 1"),
    ],
)
def test_a_reply_that_contradicts_itself_is_not_believed(lie: dict[str, Any], said: str) -> None:
    phase = deploy.deploy({"": b"model"}, "r")
    phase.check(State(0, {}), Job(), Payload(_HONEST))
    with pytest.raises(ValueError, match=re.escape(said)):
        phase.check(State(0, {}), Job(), Payload({**_HONEST, **lie}))
