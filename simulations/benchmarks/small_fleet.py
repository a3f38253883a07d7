"""Keywords on a phone, two Pis and a Zero of 128 MiB, none of which has torch: killed, resumed, the same bits.

    python -m simulations.benchmarks.small_fleet --data-dir DATA [--quick]

What a user does with four boards, in processes on this machine: a server with TLS and keys, devices that join it from
an environment which holds what fedprune[device] brings, a run of simulations/fleet_keywords.toml. The kernel gives the
Zero's processes that answer messages 128 MiB. Server and Zero are killed in the middle of a round; the run is gone on
with, and compared with `fedprune simulate` of the same file, which nothing disturbs. All is under runs/small_fleet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table

from fedprune.data.loading import DATA_DIR
from fedprune.experiment import Experiment, load
from fedprune.federated.rounds.model import State
from fedprune.runs.folder import RunFolder
from simulations.benchmarks import _kernel_limit
from simulations.benchmarks._device_environment import environment, isolated
from simulations.benchmarks._kernel_limit import LIMIT, PEAKS, Limit, limited, together_bytes
from simulations.benchmarks._report import RESULTS, Figure, write
from simulations.benchmarks.soak import outcome
from simulations.benchmarks.soak.outcome import Failed
from simulations.benchmarks.soak.stage import CLI, ROOT, Actor, Stage, last_line, marked, set_words

FILE = ROOT / "simulations" / "fleet_keywords.toml"
QUICK = ("rounds=1", "data.examples=1200", "pretraining.epochs=1", "method.pool=1", "method.stop=0")
DEVICES = {"phone": "phone", "pi-kitchen": "pi", "pi-attic": "pi", "zero": "zero"}
"""Name -> tier."""
_LIMITED, _KILLED_IN = "zero", 5
_OFTEN_S = 0.3
_RUN_S = 1500.0
_COMMAND = "python -m simulations.benchmarks.small_fleet"


class Boards(Stage):
    """A fleet whose devices have no torch, one of them little memory."""

    def __init__(self, folder: Path, data: str, settings: Sequence[str], limit: Limit) -> None:
        """Enrol them; make their environment."""
        super().__init__(folder, ())
        self.data, self.own, self.limit = data, settings, limit
        self.out = self.fleet / "runs" / FILE.stem
        self.python = environment(folder / "environment")
        _kernel_limit.prepare(self.python)
        for name, tier in DEVICES.items():
            self.command("server", "enrol", str(self.fleet), name, "--tier", tier)

    def torch_is_there(self) -> bool:
        """Whether the devices' environment can import torch."""
        return subprocess.run([self.python, "-c", "import torch"], env=isolated(), capture_output=True).returncode == 0

    def join(self, name: str, *, before: Sequence[str] = (), environment: dict[str, str] | None = None) -> Actor:
        """A device, joining from its own environment."""
        given = {**self.environment(name), **(environment or {})}
        given.pop("PYTHONPATH")
        given[PEAKS] = str(self.peaks(name))
        if name == _LIMITED:
            given[LIMIT] = self.limit.told
        file = self.fleet / "devices" / f"{name}.join"
        words = [*before, str(self.python), *CLI[1:], "join", str(file), "--data", self.data]
        return Actor(words, given, self.folder / f"{name}.log")

    def peaks(self, name: str) -> Path:
        """The folder where processes of a device that answered a message note what they took."""
        folder = self.folder / "peaks" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def most(self, tier: str) -> int:
        """The most that one of a tier's processes for messages took, in bytes."""
        mine = [name for name, own in DEVICES.items() if own == tier]
        return max(int(file.read_text()) for name in mine for file in self.peaks(name).iterdir())

    def run(self, *options: str) -> Actor:
        """``fedprune run`` of the keywords on the fleet, started."""
        self._number += 1
        words = [*CLI, "run", str(FILE), "--fleet", str(self.fleet), "--data-dir", self.data, *set_words(self.own)]
        return Actor([*words, *options], self.environment("run"), self.folder / f"run-{self._number}.log")


class Watch:
    """Looks at all processes of a device from a thread of its own while it is entered."""

    def __init__(self, device: Actor) -> None:
        """What it looks at may be replaced."""
        self.device = device
        self.peak = 0
        """The most that they took together, in bytes."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_OFTEN_S):
            self.peak = max(self.peak, together_bytes(one.pid for one in marked(self.device.marker)))


def main() -> None:
    """Run it, print the table, and write results/small_fleet.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", default=os.environ.get(DATA_DIR), help="folder of data sets")
    parser.add_argument("--quick", action="store_true", help="a round of few examples, no kill; nothing is written")
    options = parser.parse_args()
    if not options.data_dir:
        parser.error(f"--data-dir: give the folder of data sets, or set {DATA_DIR}")
    data, settings, console = str(Path(options.data_dir).absolute()), QUICK if options.quick else (), Console()
    folder = ROOT / "runs" / ("small_fleet_quick" if options.quick else "small_fleet")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    experiment = load(FILE, settings)
    with limited(experiment.fleet[_LIMITED].train_memory_bytes) as limit:
        console.print(f"{_LIMITED}: {experiment.fleet[_LIMITED].train_memory_bytes:,} bytes, by {limit.how}")
        with Boards(folder, data, settings, limit) as boards:
            figures = _figures(boards, experiment, kill=not options.quick)
    table = Table("figure", "value", "target", "against", title=f"Four devices without torch; all in {folder}")
    for name, figure in figures.items():
        target = "" if figure.target is None else f"{figure.target:g}"
        against = ", ".join(f"{peer} {value:.4g}" for peer, value in figure.against.items())
        table.add_row(name, f"{figure.value:.4g} {figure.unit}", target, against)
    console.print(table)
    if not options.quick:
        path = write("small_fleet", figures, _COMMAND, ["flwr", "torch"])
        console.print(f"written to {path.relative_to(RESULTS.parent)}")


def _figures(boards: Boards, experiment: Experiment, *, kill: bool) -> dict[str, Figure]:
    torch = boards.torch_is_there()
    with ThreadPoolExecutor(1) as pool:
        simulated = pool.submit(_simulated, boards)
        took, whole, counted = _ran(boards, kill=kill)
        undisturbed = simulated.result()
    result = RunFolder(boards.out).read_result()
    allowed = {tier: own.train_memory_bytes for tier, own in experiment.fleet.items()}
    figures = {}
    for tier, facts in result["tiers"].items():
        against = {"predicted for training": facts["train_memory_bytes_predicted"] / 1e6}
        figures[f"{tier}_process_peak_mb"] = Figure(
            boards.most(tier) / 1e6, "MB", "lower", allowed[tier] / 1e6 or None, against
        )
    most = allowed[_LIMITED] / 1e6
    figures["zero_limit_mb"] = Figure(most, "MB", "lower", against={boards.limit.how: most})
    if counted:
        figures["zero_group_peak_mb"] = Figure(counted / 1e6, "MB", "lower", most)
    figures["zero_device_mb"] = Figure(whole / 1e6, "MB", "lower")
    for tier, facts in result["tiers"].items():
        against = {"undisturbed simulation": 100 * undisturbed["tiers"][tier]["accuracy_int8"]}
        figures[f"{tier}_accuracy"] = Figure(100 * facts["accuracy_int8"], "%", "higher", against=against)
    figures["torch_importable"] = Figure(float(torch), "of 1", "lower", 0.0)
    figures["other_bits"] = Figure(float(_other_bits(boards)), "tensors and files", "lower", 0.0)
    figures["seconds"] = Figure(took, "s", "lower")
    return figures


def _ran(boards: Boards, *, kill: bool) -> tuple[float, int, int]:
    """Run it on the fleet: (seconds, bytes of all processes of the limited device, bytes that its group counts)."""
    began, server = time.monotonic(), boards.serve()
    devices = {name: boards.join(name) for name in DEVICES}
    with Watch(devices[_LIMITED]) as watch:
        run = boards.run()
        if kill:
            run = _killed(boards, server, watch, run)
        boards.finish(run, _RUN_S)
        return time.monotonic() - began, watch.peak, boards.limit.peak_bytes()


def _killed(boards: Boards, server: Actor, watch: Watch, run: Actor) -> Actor:
    """Kill the server and a device in the middle of a round, start both again, and go on; the run that does."""
    boards.until(boards.reached(_KILLED_IN - 1, "train"), _RUN_S, "the run does not come so far", run)
    boards.training(watch.device, _KILLED_IN, 0.0)
    server.kill()
    watch.device.kill()
    if outcome.said(boards.out):
        raise Failed(f"devices fail: {outcome.said(boards.out)}")
    boards.serve()
    watch.device = boards.join(_LIMITED)
    return boards.resume()[0]


def _simulated(boards: Boards) -> dict[str, Any]:
    """The result of the same file on this machine alone, which nothing disturbs."""
    command = [*CLI, "simulate", str(FILE), "--out", str(boards.folder / "undisturbed"), "--data-dir", boards.data]
    done = subprocess.run([*command, *set_words(boards.own)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise Failed(f"fedprune simulate: {last_line(done.stdout + done.stderr)}")
    return RunFolder(boards.folder / "undisturbed").read_result()


def _other_bits(boards: Boards) -> int:
    """How many tensors of the last checkpoint and exported files of any tier are not those of the undisturbed run."""
    undisturbed = boards.folder / "undisturbed"
    ours, theirs = (_tensors(RunFolder(folder).state()) for folder in (boards.out, undisturbed))
    same = [name for name in ours.keys() & theirs.keys() if ours[name].tobytes() == theirs[name].tobytes()]
    files = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("model*.tflite"))
    if len(files) < 2 * len(set(DEVICES.values())):
        raise Failed("exported files are missing")
    differ = [file for file in files if not _same(boards.out / file, undisturbed / file)]
    return len(ours.keys() | theirs.keys()) - len(same) + len(differ)


def _tensors(state: State) -> dict[str, np.ndarray[Any, Any]]:
    """Weights, statistics and masks, those of parts included."""
    found = {**state.params, **{f"mask/{name}": mask for name, mask in state.masks.items()}}
    for part, held in state.parts.items():
        found |= {f"{part}/{name}": value for name, value in held.params.items()}
        found |= {f"{part}/mask/{name}": mask for name, mask in held.masks.items()}
    return found


def _same(one: Path, other: Path) -> bool:
    return one.exists() and one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    main()
