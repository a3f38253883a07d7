"""An environment that holds what `pip install 'fedprune[device]'` brings, and so no torch: what a device does there."""

import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fleet_commands import free_port

from fedprune import models
from fedprune.deployment import devices
from fedprune.deployment.fleet_folder import create
from fedprune.export import litert
from fedprune.graph import inference, trace
from fedprune.native import library
from simulations.benchmarks._device_environment import ROOT, environment, isolated

Run = Callable[..., subprocess.CompletedProcess[str]]
Said = Callable[..., str]
compiled = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
_APPS = (
    "import clients.app, fedprune.deployment.apps, fedprune.deployment.device.app, sys; print('torch' in sys.modules)"
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the environment."""
    return environment(tmp_path_factory.mktemp("device") / "environment")


@pytest.fixture
def run(python: Path, tmp_path: Path) -> Run:
    """Run it with these words, at home in a folder of its own."""
    variables = {**isolated(), "HOME": str(tmp_path), "COLUMNS": "200"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(python), *words], env=variables, cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.fixture
def said(run: Run) -> Said:
    """What a command of fedprune says, which ends well."""

    def said(*words: str) -> str:
        done = run("-m", "fedprune.cli", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return said


def test_a_devices_apps_are_imported_where_torch_cannot_be(run: Run) -> None:
    assert "No module named 'torch'" in run("-c", "import torch").stderr
    done = run("-c", _APPS)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@compiled
def test_a_profile_is_measured_with_the_compiled_trainer(said: Said) -> None:
    found = json.loads(said("profile", "--json"))
    assert found["macs_per_second"] > 1e7
    assert 0 < found["runtime_bytes"] < found["memory_bytes"]


def test_recordings_are_looked_at(said: Said, tmp_path: Path) -> None:
    for label in ("no", "yes"):
        (tmp_path / label).mkdir()
        with wave.open(str(tmp_path / label / "0.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(np.zeros(8000, "<i2").tobytes())
    assert "2 examples of shape" in said("data", "check", str(tmp_path))


def test_a_model_is_timed(said: Said, tmp_path: Path) -> None:
    model = models.build("digits_cnn", (1, 8, 8), 10).eval()
    file = tmp_path / "model.tflite"
    file.write_bytes(litert.write_float(inference(trace(model, torch.zeros(1, 1, 8, 8)))))
    assert "ms" in said("bench", str(file), "--on", "host")


def test_a_device_joins_as_a_service(python: Path, said: Said, tmp_path: Path) -> None:
    fleet = create(tmp_path / "fleet", ["127.0.0.1"], port=free_port())
    _, file = devices.enrol(fleet, "kitchen")
    told = said("join", str(file), "--data", str(tmp_path), "--install-service")
    unit = tmp_path / ".config" / "systemd" / "user" / "fedprune-kitchen.service"
    assert str(unit) in told
    assert str(python.parent) in unit.read_text()


@pytest.mark.parametrize("words", [("methods",), ("simulate", str(ROOT / "simulations" / "digits.toml"), "--fresh")])
def test_what_is_of_servers_says_in_a_line_that_it_needs_torch(run: Run, words: tuple[str, ...]) -> None:
    done = run("-m", "fedprune.cli", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("torch is not installed here: pip install 'fedprune[device-torch]'")
