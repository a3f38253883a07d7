"""Benchmark of a 64-bit Raspberry Pi's installation: made in an emulated one as a user would, weighed, and used."""

import argparse
import hashlib
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from fedprune import models, training
from fedprune.data.keywords import SHAPE
from fedprune.experiment import for_devices, load, to_json
from fedprune.export import litert
from fedprune.federated.link.records import to_records
from fedprune.graph import inference, trace
from fedprune.pruning import masks
from fedprune.pruning.topk import kept_count, top_k
from fedprune.runs.setting import prepare
from fedprune.wire.payload import Payload
from simulations.benchmarks import _pi
from simulations.benchmarks._report import Figure, write

REPOSITORY = Path(__file__).resolve().parents[2]
PINS = REPOSITORY / "clients" / "raspberry_pi" / "requirements.txt"
DATA = "arabic_speech_commands"
INSTALLED_MB, CLIENT_BYTES = 330, 90_000_000  # what they should not exceed
PEAK_BYTES = 130_000_000  # of which 20 MB are the recordings of all 30 speakers
_ONE_MESSAGE, _MESSAGE = "_pi_device.py", "message"
_NOT_COMPILED = ("PIP_COMPILE=0",)  # under emulation that takes many minutes; `_pi.compile_all` takes seconds


def install(console: Console, wheel: Path) -> dict[str, int]:
    """Make the system and the installation as far as they are not there; return package -> bytes."""
    home = _pi.home()
    console.print(f"An emulated Raspberry Pi in {_pi.root()}")
    _pi.prepare()
    shutil.copy(wheel, home)
    package = f"./{wheel.name}[device]"
    shutil.copy(PINS, home / PINS.name)
    weighed, key = home / "weighed.json", _key()
    kept = json.loads(weighed.read_text()) if weighed.is_file() else None
    if kept is not None and kept["key"] != key:
        shutil.rmtree(_pi.venv())
        weighed.unlink()
        kept = None
    if not (_pi.site() / "pip").is_dir():
        _type(console, f"python3 -m venv {_pi.venv().name}")
    console.print(f"$ . {_pi.venv().name}/bin/activate")
    if kept is not None:
        console.print(
            f"$ pip install -c {PINS.name} '{package}'   # is there: only fedprune is new", markup=False, soft_wrap=True
        )
        _pi.run(("pip", "install", "--no-deps", "--force-reinstall", f"./{wheel.name}"), _NOT_COMPILED)
        sizes: dict[str, int] = kept["sizes"]
        return sizes
    _type(console, f"pip install -c {PINS.name} '{package}'", _NOT_COMPILED)
    _pi.compile_all()
    sizes = _pi.sizes()
    weighed.write_text(json.dumps({"key": key, "sizes": sizes}))
    return sizes


def message(data_dir: Path) -> bytes:
    """The content of a train message of the keywords experiment, as a server makes it, for devices without torch.

    The net is fresh, its pointwise weights pruned.
    """
    changes = ["training.epochs=1", "training.engine=native"]
    experiment = load(REPOSITORY / "simulations" / "keywords.toml", changes)
    setting = prepare(experiment, "benchmark", str(data_dir))
    density, params = float(experiment.method["density"]), dict(training.state_of(setting.model()))
    pointwise = [name for name, value in params.items() if value.shape[2:] == (1, 1)]
    kept = {name: top_k(np.abs(params[name]), kept_count(density, params[name].size)) for name in pointwise}
    values = {"experiment": to_json(for_devices(experiment)), "round": 1, "learning_rate": 0.1, **setting.more()}
    return pickle.dumps(to_records(Payload(values, masks.apply(params, kept), kept)))


def use(console: Console, data_dir: Path | None) -> dict[str, Any]:
    """What the device does there; returns what its training said, nothing without the data."""
    home, said = _pi.home(), {}
    _type(console, "fedprune profile")
    _type(console, "python -c 'import fedprune.federated.link.client'")
    if data_dir is not None:
        shutil.copy(Path(__file__).with_name(_ONE_MESSAGE), home / _ONE_MESSAGE)
        (home / _MESSAGE).write_bytes(message(data_dir))
        (home / DATA).mkdir(exist_ok=True)
        command = f"python {_ONE_MESSAGE} {_MESSAGE}"
        told = _type(console, command, (f"FEDPRUNE_DATA_DIR=/{home.relative_to(_pi.root())}",), (data_dir / DATA,))
        said = json.loads(told.splitlines()[-1])
    (home / "model.tflite").write_bytes(_model())
    _type(console, "fedprune bench model.tflite --on host")
    return said


def native(data_dir: Path) -> dict[str, Any]:
    """The same train message on this computer."""
    script = (str(Path(__file__).with_name(_ONE_MESSAGE)), str(_pi.home() / _MESSAGE))
    environment = {**os.environ, "FEDPRUNE_DATA_DIR": str(data_dir)}
    done = subprocess.run((sys.executable, *script), env=environment, check=True, capture_output=True, text=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def figures(sizes: Mapping[str, int], there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Figure]:
    """Megabytes of the installation, and seconds, bytes and the loss of one train message."""
    sizes = {name: size for name, size in sizes.items() if name not in ("pip", "setuptools")}  # every venv's own
    made = {"device_installed_mb": Figure(sum(sizes.values()) / 1e6, "MB", "lower", INSTALLED_MB)}
    if here:
        made["client_bytes"] = Figure(here["client_bytes"], "bytes resident, here", "lower", CLIENT_BYTES)
        made["training_peak_bytes"] = Figure(here["peak_bytes"], "bytes resident, here", "lower", PEAK_BYTES)
        made["client_import_s"] = Figure(here["client_import_s"], "s, here", "lower")
    if here and there:
        differs = abs(there["loss"] - here["loss"]) / here["loss"]
        made["loss_differs_by"] = Figure(differs, "of the loss here", "lower", 1e-3)
    return made | {f"bytes_of_{name}": Figure(size, "bytes", "lower") for name, size in sizes.items()}


def _type(console: Console, command: str, environment: tuple[str, ...] = (), shown: tuple[Path, ...] = ()) -> str:
    """Show a command and what it says, as on the Pi's terminal."""
    home = tuple(word for word in environment if word.startswith("FEDPRUNE"))
    console.print("$", *(word.replace(f"/{_pi.home().relative_to(_pi.root())}", "~") for word in home), command,
                  highlight=False, markup=False, soft_wrap=True)  # fmt: skip
    words = shlex.split(command, comments=True)
    told = _pi.run(words, environment, shown)
    if said := told.rstrip().splitlines():
        last = said[-1:] if words[0] == "pip" else said  # of which the rest is downloads
        console.print(*last, sep="\n", highlight=False, markup=False, soft_wrap=True)
    return told


def _wheel() -> Path | None:
    """The wheel for its processor that `make wheels` compiles; None where there is none of this library."""
    changed = max(path.stat().st_mtime for path in (REPOSITORY / "fedprune").rglob("*.py"))
    made = (REPOSITORY / "dist").glob("*_aarch64.whl")
    return next((path for path in made if path.stat().st_mtime > changed), None)


def _key() -> str:
    """Changes with what is installed beside fedprune itself."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["device"]
    return hashlib.sha256(PINS.read_bytes() + json.dumps(asked).encode()).hexdigest()


def _model() -> bytes:
    """The keywords' net in int8; its weights do not matter."""
    torch.manual_seed(0)
    inputs = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    graph = inference(trace(models.build("dscnn", SHAPE, 40).eval(), inputs[:1]))
    return litert.write_int8(graph, litert.calibrate(graph, inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="nothing is downloaded: only if the system is there")
    parser.add_argument("--data-dir", type=Path, help=f"folder that holds {DATA}; without it nothing is trained")
    arguments = parser.parse_args()
    console = Console()
    if lacking := _pi.missing():
        console.print(f"not measured: {lacking}")
        return
    if (wheel := _wheel()) is None:
        console.print("not measured: dist/ has no wheel of this library for aarch64: make wheels")
        return
    if arguments.quick and not (_pi.home() / "weighed.json").is_file():
        console.print(f"not measured: there is no emulated Raspberry Pi in {_pi.root()}; run without --quick, once")
        return
    sizes = install(console, wheel)
    there = use(console, arguments.data_dir)
    here = native(arguments.data_dir) if arguments.data_dir else {}
    command = "python -m simulations.benchmarks.pi" + " --data-dir DATA" * bool(arguments.data_dir)
    write("pi", figures(sizes, there, here), command, packages=["flwr"])
    console.print("written to results/pi.json")


if __name__ == "__main__":
    main()
