"""Three devices over TLS, each with sounds of its own, the server without data; ``make fleet-demo`` is of pictures."""

import functools
import json
import subprocess
import sys
import time
import wave
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet_commands import CLI, free_port, running
from PIL import Image

from fedprune.deployment import devices, flower
from fedprune.deployment.fleet_folder import create
from fedprune.experiment import load
from fedprune.federated.link.engines import local
from fedprune.native import library
from fedprune.runs.run import simulate
from simulations.benchmarks._device_environment import environment

HELD: dict[str, Sequence[str]] = {"hall": ("one", "two"), "kitchen": ("two", "three"), "yard": ("three", "one")}
_METHOD = '[method]\nname = "fedtiny"\ndensity = 0.3\npool = 2\nperiod = 1\nstop = 1\n'
_SOUNDS = 'sounds = { seconds = 0.25, rate = 8000, features = "mfcc16x10" }\n'
_PICTURES = "pictures = { size = [8, 8], channels = 1, augment = false }\n"
_WAIT_S = 240


def _record(folder: Path, labels: Sequence[str], rng: np.random.Generator) -> None:
    """Twelve sounds and pictures of each label."""
    for label in labels:
        pitch = {"one": 1, "two": 2, "three": 4}[label]
        (folder / label).mkdir(parents=True)
        for number in range(12):
            at = folder / label / f"{number}"
            heard = np.sin(2 * np.pi * 250 * pitch * np.arange(2000) / 8000) * rng.uniform(0.3, 0.8)
            with wave.open(f"{at}.wav", "wb") as sound:
                sound.setnchannels(1)
                sound.setsampwidth(2)
                sound.setframerate(8000)
                sound.writeframes(
                    (32767 * (heard + rng.normal(scale=0.05, size=2000))).clip(-32768, 32767).astype("<i2")
                )
            shade = 40 * pitch + rng.integers(0, 30, (8, 8))
            Image.fromarray(shade.astype(np.uint8)).save(f"{at}.png")


def _joined(stack: ExitStack, fleet: Path, people: Path, root: Path, python: Mapping[str, str]) -> None:
    """Start all devices, then wait until each is connected."""
    logs = [root / f"{name}.log" for name in HELD]
    for name, log in zip(HELD, logs, strict=True):
        (root / name).mkdir(exist_ok=True)
        words = ["join", str(fleet / "devices" / f"{name}.join"), "--data", str(people / name)]
        stack.enter_context(running(words, root / name, log, "", python.get(name, sys.executable)))
    until = time.monotonic() + _WAIT_S
    while not all("connected to" in log.read_text() for log in logs):
        assert time.monotonic() < until, [log.read_text() for log in logs]
        time.sleep(0.2)


def test_recordings_of_devices_behind_tls_end_in_the_models_of_a_simulation(tmp_path: Path) -> None:
    """The yard's device has torch, which none needs; the others have what a Pi has, where the trainer is compiled."""
    python = {"yard": sys.executable}
    if library.library() is not None:
        python |= dict.fromkeys(("hall", "kitchen"), str(environment(tmp_path / "environment")))
    people, rng = tmp_path / "people", np.random.default_rng(3)
    for name, labels in HELD.items():
        _record(people / name, labels, rng)
    fleet = create(tmp_path / "fleet", ["127.0.0.1"], port=free_port())
    variables = {**flower.environment(tmp_path / "flwr"), "HOME": str(tmp_path)}
    variables.pop("FEDPRUNE_DATA_DIR", None)
    file = tmp_path / "sounds.toml"
    data = '[data]\nname = "sounds"\npartition = "own"\n' + _SOUNDS
    file.write_text(f'model = "dscnn"\nrounds = 2\n{data}[training]\nbatch = 16\nengine = "auto"\n{_METHOD}')
    for name in HELD:
        devices.enrol(fleet, name)

    start = ["server", "start", str(fleet.path)]
    with ExitStack() as stack:
        stack.enter_context(running(start, tmp_path, tmp_path / "server.log", "is ready at"))
        _joined(stack, fleet.path, people, tmp_path, python)
        # cut off in round 2, and gone on with
        submitted = subprocess.Popen(
            [*CLI, "run", str(file), "--fleet", str(fleet.path)],
            env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        out, until = fleet.runs / "sounds", time.monotonic() + _WAIT_S
        while not _trained(out, 1):
            assert time.monotonic() < until
            time.sleep(0.2)
        number = (out / "run_id").read_text()
        home = fleet.path / "flwr"
        subprocess.run(
            ["flwr", "stop", number, "fleet"], env=flower.environment(home), check=True, stdout=subprocess.DEVNULL
        )
        submitted.kill()  # which only watches, and looks for the end once a minute
        submitted.wait()
        assert not (out / "result.json").exists()
        again = [*CLI, "resume", str(out)]
        while True:  # the run that was stopped holds its folder until Flower has ended it
            done = subprocess.run(again, env=variables, capture_output=True, text=True, timeout=_WAIT_S)
            if "wait until it ends" not in done.stderr or time.monotonic() > until:
                break
            time.sleep(1)
        assert done.returncode == 0, done.stdout + done.stderr

    assert json.loads((out / "result.json").read_text())["devices"] == 3
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {tuple(row["asked"]) for row in rows if "asked" in row} == {("hall", "kitchen", "yard")}
    assert not any(row.get("faults") for row in rows)
    simulate(load(file), tmp_path / "simulated", data_dir=str(people), engine=functools.partial(local, workers=1))
    for name in ("model.npz", "model.tflite"):
        assert (out / name).read_bytes() == (tmp_path / "simulated" / name).read_bytes(), name
    assert (out / "microcontroller" / "features.c").exists()


def _trained(out: Path, round: int) -> bool:
    file = out / "metrics.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return any(row["phase"] == "train" and row["round"] == round for row in rows)


@pytest.mark.parametrize("key", ["data-dir", "dataset-path"])
def test_a_supernode_started_by_hand_says_where_its_data_lies(tmp_path: Path, key: str) -> None:
    from flwr.app import Context, RecordDict

    from fedprune.experiment import to_json
    from fedprune.federated.link.client import _this_device

    _record(tmp_path / "somewhere", ("one", "two"), np.random.default_rng(4))
    file = tmp_path / "pictures.toml"
    data = '[data]\nname = "pictures"\npartition = "own"\n' + _PICTURES
    file.write_text(f'model = "digits_cnn"\nrounds = 1\n{data}[method]\nname = "fedavg"\n')
    config = {key: str(tmp_path / "somewhere"), "name": "cellar"}
    device = _this_device(to_json(load(file)), Context(1, 77, config, RecordDict(), {}))
    assert device.who == "cellar"
    assert device.schema.classes == ("one", "two")
    assert sum(device.parts.sizes().values()) == 24
    unnamed = _this_device(to_json(load(file)), Context(1, 77, {key: config[key]}, RecordDict(), {}))
    assert unnamed.who == "node-77"
    # its number may be another after it was started again, and what tested must not train then
    again = _this_device(to_json(load(file)), Context(1, 78, {key: config[key]}, RecordDict(), {}))
    assert np.array_equal(again.parts.test_indices, unnamed.parts.test_indices)
    configs: list[dict[str, Any]] = [{}, {"data-dir": str(tmp_path)}]
    for run_config in configs:  # a server says nothing of where it reads
        context = Context(1, 77, {"partition-id": 0}, RecordDict(), run_config)
        with pytest.raises(ValueError, match="node-config wants dataset-path"):
            _this_device(to_json(load(file)), context)
