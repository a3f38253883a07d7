"""Every method of the catalogue on one experiment, over seeds, at two densities; what each costs in bytes and seconds.

    python -m simulations.benchmarks.methods                    # what is missing of 3 seeds at densities 0.1 and 0.02
    python -m simulations.benchmarks.methods --only gmp rigl    # the same of some methods
    python -m simulations.benchmarks.methods --quick            # four methods, one seed, three rounds

All start from the same pretrained weights, share data, rounds and training, and act for the last time in round 12 of
16; nothing is tuned for one of them alone. Each run is written to results/methods.json when it is done, and one that is
there is not run again, so a comparison can be cut into pieces. A method that narrows the model is given the width that
keeps about as many weights as the density. Seconds are those of one process on this machine, without export.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fedprune.experiment import Experiment, load
from fedprune.federated.rounds.model import State
from fedprune.methods import catalogue, find
from simulations.benchmarks._report import RESULTS, Figure, machine, write

_EXPERIMENT = Path(__file__).resolve().parents[1] / "methods.toml"
_FILE = RESULTS / "methods.json"
DENSITIES = (0.1, 0.02)
_LAST = 12
SETTINGS: dict[str, dict[str, Any]] = {
    "fedtiny": {"pool": 5, "period": 2, "stop": _LAST},
    "feddst": {"period": 2, "stop": _LAST},
    "fedtiny_halving": {"pool": 2, "trial": 2, "period": 2, "stop": _LAST - 4},
    "gmp": {"stop": _LAST},
    "granet": {"period": 2, "stop": _LAST},
    "prunefl": {"period": 2, "stop": _LAST},
    "rigl": {"period": 2, "stop": _LAST},
    "fedrts": {"period": 2, "stop": _LAST},
    "fedmef": {"period": 2, "stop": _LAST},
    "dis_pfl": {"stop": _LAST},
    "set": {"period": 2, "stop": _LAST},
    "sparsyfed": {"stop": _LAST},
    "lth": {"levels": 6, "period": 2},
    "imp": {"levels": 6, "period": 2, "rewind": 1},
    "lottery_fl": {"fraction": 0.3},
    "lottery_jackpots": {"stop": _LAST},
    "dhspg": {"penalty": 0.6, "stop": _LAST},
    "mask_sparsity": {"penalty": 0.2, "stop": _LAST},
}
"""Method -> its schedule, so that all act for the last time by the same round; all else is as each has it, but for two
penalties, published for thousands of steps, which do nothing in so few: those of tests/methods/test_learned.py."""
_QUICK = ("fedavg", "magnitude", "gmp", "rigl")


def main() -> None:
    """Run what is missing, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=list(catalogue()), default=list(catalogue()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each in one process")
    parser.add_argument("--quick", action="store_true", help="four methods, one seed, three rounds; nothing is written")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_run(**json.loads(options.one))))
        return
    names = _QUICK if options.quick else options.only
    runs = {} if options.quick else _known()
    writing = Lock()
    keys = list(_keys(names, 1 if options.quick else options.seeds, DENSITIES[:1] if options.quick else DENSITIES))

    def run(key: tuple[str, float, int]) -> None:
        asked = json.dumps({"method": key[0], "density": key[1], "seed": key[2], "quick": options.quick})
        command = [sys.executable, "-m", "simulations.benchmarks.methods", "--one", asked]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{key}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return
        with writing:
            runs[_name(key)] = json.loads(done.stdout.splitlines()[-1])
            print(f"{_name(key)}: {100 * runs[_name(key)]['accuracy']:.2f} %", flush=True)
            if not options.quick:
                _write(runs)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, [key for key in keys if _name(key) not in runs]))
    _show(runs, [key for key in keys if _name(key) in runs])


def _keys(
    names: tuple[str, ...] | list[str], seeds: int, densities: tuple[float, ...]
) -> Iterator[tuple[str, float, int]]:
    """(method, density, seed), seed by seed, so that a comparison cut short is one; a dense method has one density."""
    for seed in range(seeds):
        for density in densities:
            for name in names:
                if _size(name) is not None or density == densities[0]:
                    yield name, density if _size(name) is not None else 1.0, seed


def _size(method: str) -> str | None:
    """The parameter by which a method's model is smaller."""
    takes = inspect.signature(find(method)).parameters
    return next((key for key in ("density", "width", "keep") if key in takes), None)


def _name(key: tuple[str, float, int]) -> str:
    return f"{key[0]}, density {key[1]:g}, seed {key[2]}"


def _table(method: str, density: float) -> dict[str, Any]:
    size = _size(method)
    sized = {} if size is None else {size: density if size == "density" else round(math.sqrt(density), 3)}
    return {"name": method, **sized, **SETTINGS.get(method, {})}


def _run(method: str, density: float, seed: int, quick: bool) -> dict[str, float]:
    """One run, in this process."""
    from fedprune.federated.link.client import client_app
    from fedprune.federated.link.local_grid import LocalGrid
    from fedprune.runs.folder import RunFolder
    from fedprune.runs.setting import prepare
    from simulations.benchmarks._rounds import drive

    table = ", ".join(f"{key}={json.dumps(value)}" for key, value in _table(method, density).items())
    short = ["rounds=3", "evaluate_every=3", "pretraining.epochs=3", "training.epochs=1"] if quick else []
    experiment: Experiment = load(_EXPERIMENT, [f"method={{{table}}}", *short], seed=seed)
    with tempfile.TemporaryDirectory() as path, LocalGrid(client_app, experiment.data.devices) as grid:
        setting, folder = prepare(experiment, str(_EXPERIMENT)), RunFolder(Path(path) / "run")
        folder.begin(experiment)
        started = time.perf_counter()
        state = drive(grid, setting, folder, None)
        seconds, rows = time.perf_counter() - started, folder.rows()
    tested = [row for row in rows if row["phase"] == "evaluate"][-1]
    return {
        "accuracy": tested["accuracy"],
        "density": _density(state, setting.layers),
        "megabytes_up": sum(row.get("bytes_up") or 0 for row in rows) / 1e6,
        "megabytes_down": sum(row.get("bytes_down") or 0 for row in rows) / 1e6,
        "seconds": seconds,
    }


def _density(state: State, layers: Collection[str]) -> float:
    """The kept fraction of the prunable weights; of a method with a mask for each device, the devices' mean."""
    own = [state.memory[name] for name in state.memory if name.startswith("mask/")]
    part = state.view(next(iter(state.parts), "")).masks
    kept = own or [part.get(name, np.ones(state.params[name].shape, np.bool_)) for name in layers]
    return sum(int(np.count_nonzero(mask)) for mask in kept) / sum(mask.size for mask in kept)


def _known() -> dict[str, dict[str, float]]:
    """Runs that are done already, of this machine."""
    if not _FILE.exists():
        return {}
    kept = json.loads(_FILE.read_text())
    runs: dict[str, dict[str, float]] = kept["runs"] if kept["machine"] == machine() else {}
    return runs


def _write(runs: dict[str, dict[str, float]]) -> None:
    figures = {}
    for (method, density), found in _grouped(runs).items():
        accuracies = [100 * run["accuracy"] for run in found]
        figures[f"{method}, density {density:g}: accuracy"] = Figure(statistics.mean(accuracies), "%", "higher")
    path = write("methods", figures, "python -m simulations.benchmarks.methods", ("flwr", "torch"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "runs": dict(sorted(runs.items()))}, indent=2) + "\n")


def _grouped(runs: dict[str, dict[str, float]]) -> dict[tuple[str, float], list[dict[str, float]]]:
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for key, run in sorted(runs.items()):
        method, density, _ = key.split(", ")
        found.setdefault((method, float(density.split()[1])), []).append(run)
    return found


def _show(runs: dict[str, dict[str, float]], keys: list[tuple[str, float, int]]) -> None:
    table = Table("method", "density asked", "kept", "accuracy, %", "± ", "MB up", "MB down", "s", box=None)
    found = _grouped({_name(key): runs[_name(key)] for key in keys})
    for (method, density), each in sorted(found.items(), key=lambda item: (-item[0][1], item[0][0])):
        means = {name: statistics.mean(run[name] for run in each) for name in each[0]}
        spread = statistics.stdev([100 * run["accuracy"] for run in each]) if len(each) > 1 else 0.0
        table.add_row(
            method, f"{density:g}", f"{means['density']:.3f}", f"{100 * means['accuracy']:.2f}", f"{spread:.2f}",
            f"{means['megabytes_up']:.2f}", f"{means['megabytes_down']:.2f}", f"{means['seconds']:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
