"""What the extras for devices bring to a 64-bit Raspberry Pi, by metadata, and what training loads."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from simulations.benchmarks._device_environment import ROOT, asked, closure

PINS = ROOT / "clients" / "raspberry_pi" / "requirements.txt"
MEASURED = ROOT / "results" / "pi.json"

INSTALLED_BUDGET_BYTES = 330_000_000
"""Of the whole installation, compiled Python included."""
HERE_BUDGET_BYTES = 460_000_000
"""Of the same on this processor, whose builds are larger."""

UNWANTED = re.compile(
    r"(litert-|ai-edge-(?!litert$)|tensorflow|tflite|jax|onnx|transformers|torch-pruning|torchao|matplotlib|seaborn|pillow"
    r"|scikit-learn|scipy|pandas|polars|pyarrow|datasets|flwr-datasets|ray$|nvidia-|cuda-|triton)"
)


def pins() -> dict[str, Version]:
    lines = [line.partition("#")[0].strip() for line in PINS.read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    exact = {}
    for requirement in found:
        (only,) = requirement.specifier
        assert only.operator == "==", f"{requirement} names no exact version"
        exact[canonicalize_name(requirement.name)] = Version(only.version)
    return exact


@pytest.mark.parametrize("extra", ["device", "device-torch"])
def test_a_device_installs_no_converter_plots_data_frames_ray_or_nvidia_packages(extra: str) -> None:
    found = closure(extra)
    assert {"flwr", "numpy", "ai-edge-litert"} <= found
    assert ("torch" in found) == (extra == "device-torch")
    assert [name for name in sorted(found) if UNWANTED.match(name)] == []


def test_the_pins_name_all_that_is_installed_and_nothing_unwanted() -> None:
    pinned = pins()
    assert [name for name in sorted(pinned) if UNWANTED.match(name)] == []
    assert closure("device") <= closure("device-torch")
    # of setuptools newer versions of torch alone need one
    assert closure("device-torch") - {"setuptools"} <= pinned.keys()


def test_the_pinned_torch_is_a_cpu_build_that_the_library_takes() -> None:
    (torch,) = [requirement for requirement in asked("device-torch") if requirement.name == "torch"]
    pinned = pins()["torch"]
    assert pinned in torch.specifier
    assert Version("2.11") not in torch.specifier  # from there on the index's build for aarch64 is one for CUDA


def test_every_pin_is_within_what_the_library_asks_for() -> None:
    pinned = pins()
    for requirement in asked("device-torch"):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_what_was_measured_is_what_is_pinned_and_within_the_budget() -> None:
    figures = json.loads(MEASURED.read_text())["figures"]
    measured = {key.removeprefix("bytes_of_") for key in figures if key.startswith("bytes_of_")}
    assert measured <= pins().keys() | {"fedprune"}
    assert closure("device") | {"fedprune"} <= measured
    assert "torch" not in measured
    assert 1e6 * figures["device_installed_mb"]["value"] <= INSTALLED_BUDGET_BYTES


def test_what_is_installed_stays_small() -> None:
    """The same files as on the Pi, of this processor: a new dependency that is large shows here first."""
    size = 0
    for name in closure("device"):
        files = metadata.files(name) or []
        size += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    assert 10_000_000 < size <= HERE_BUDGET_BYTES


TRAIN = """
import json, sys
import fedprune.federated.link.client
HEAVY = ("torch", "torch._dynamo", "torch._inductor", "sympy", "matplotlib", "pandas", "pyarrow", "ray", "scipy",
         "ai_edge_litert", "flatbuffers", "sklearn", "PIL", "datasets", "flwr_datasets", "torch_pruning")
loaded = lambda: [name for name in HEAVY if name in sys.modules]
imported = loaded()

import numpy as np, tiny_world
from fedprune import experiment, training
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, to_records
from fedprune.wire.payload import Payload

asked = tiny_world.experiment()
params = training.state_of(tiny_world.net(tiny_world.SHAPE, tiny_world.CLASSES))
masks = {"1.0.weight": np.arange(params["1.0.weight"].size).reshape(params["1.0.weight"].shape) % 5 == 0}
params["1.0.weight"] = params["1.0.weight"] * masks["1.0.weight"]
values = {"experiment": experiment.to_json(asked), "round": 1, "learning_rate": 0.1}
with LocalGrid(fedprune.federated.link.client.client_app, 4) as grid:
    content = to_records(Payload(values, params, masks))
    (reply,) = grid.send_and_receive([grid.create_message(content, "train", grid.get_node_ids()[0], "1")])
if reply.has_error():
    sys.exit(reply.error.reason)
got = from_records(reply.content, masks)
moved = [name for name, value in got.tensors.items() if np.any(value != params[name])]
print(json.dumps({"imported": imported, "trained": loaded(), "seen": got.values["seen"], "moved": moved}))
"""


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """What a process says that has imported the client and answered one train message."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "federated")])
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_the_client_starts_without_torch(trained: dict[str, Any]) -> None:
    assert trained["imported"] == []


def test_training_loads_torch_and_nothing_else_that_is_heavy(trained: dict[str, Any]) -> None:
    assert trained["seen"] > 0
    assert "1.0.weight" in trained["moved"]
    assert trained["trained"] == ["torch"]
