"""Benchmark of the cost model: peak memory of a device's process, predicted from the graph and measured."""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import RecordDict
from rich.console import Console
from rich.table import Table

from fedprune import masks, models, training
from fedprune.budgets import Memory, training_memory
from fedprune.counter_rng import uniforms
from fedprune.experiment import parse, to_json
from fedprune.federated.payload import Payload, to_records
from fedprune.graph import trace
from fedprune.lean_training import Lean, blocks
from fedprune.progressive import prunable
from simulations.benchmarks import _memory_device
from simulations.benchmarks._memory_device import EXAMPLES, SHAPES
from simulations.benchmarks._report import Figure, write

BATCH = 64
TARGET = 0.10
DATA = {
    (3, 32, 32): "images",
    (3, 96, 96): "photographs",
    (1, 49, 10): "spectrograms",
    (9, 128): "windows",
    (1, 8, 8): "digits",
}


class Way(NamedTuple):
    """A way to train."""

    lean: Lean
    density: float = 1.0


WAYS = {
    "whole batches, dense": Way(Lean()),
    "whole batches, masked at 0.1": Way(Lean(), 0.1),
    "recomputed, 8 at a time": Way(Lean(micro_batch=8, recompute=True)),
    "sparse at 0.1, recomputed, 8 at a time": Way(Lean(micro_batch=8, recompute=True, sparse=True), 0.1),
}
QUICK = ("digits_cnn", "resnet8")


class Outcome(NamedTuple):
    """One process: what it took, and what it was thought to take, in bytes."""

    measured: int
    predicted: Memory

    @property
    def error(self) -> float:
        """Fraction of what was measured."""
        return abs(self.predicted.total - self.measured) / self.measured


def request(name: str, way: Way) -> tuple[RecordDict, Memory]:
    """What a server would send, and the memory that its answer takes, apart from the process's own."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    model = models.build(name, shape, 10)
    graph = trace(model, torch.zeros(1, *shape))
    state = training.state_of(model)
    weights = {key: state[key].shape for key, p in model.named_parameters() if p.ndim > 1}
    layers = prunable(tuple(weights)) if way.density < 1 else ()
    pruned = {key: uniforms(0, key, weights[key]) < way.density for key in layers}
    experiment = parse(
        {
            "name": "memory",
            "data": {
                "name": f"{_memory_device.__name__}:{DATA[shape]}",
                **{"partition": "iid", "devices": 1, "public": 0, "development": 0},
            },
            "model": name,
            "method": {"name": "fedavg"},
            "rounds": 1,
            "training": {"batch": BATCH},
        },
        "benchmark",
    )
    values = {"experiment": to_json(experiment), "lean": way.lean._asdict()}
    memory = training_memory(
        graph,
        batch=BATCH,
        micro_batch=way.lean.micro_batch,
        recompute=blocks(model) if way.lean.recompute else (),
        sparse=way.lean.sparse,
        kept={key: int(mask.sum()) for key, mask in pruned.items()},
        examples=EXAMPLES,
        example_bytes=int(np.prod(shape)),
    )
    return to_records(Payload(values, masks.apply(state, pruned), pruned)), memory


def device(records: RecordDict | None = None) -> dict[str, int]:
    """What a fresh process says: its peak after an answer, or without a request its profile."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "request")
        if records is not None:
            file.write_bytes(pickle.dumps(records))
        command = [sys.executable, "-m", _memory_device.__name__, *([str(file)] if records is not None else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the device's process failed:\n{done.stderr}")
    said: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return said


def measure(quick: bool) -> dict[tuple[str, str], Outcome]:
    runtime = int(device()["runtime_bytes"])
    found = {}
    for name in QUICK if quick else SHAPES:
        for title, way in WAYS.items():
            records, memory = request(name, way)
            found[name, title] = Outcome(device(records)["peak_bytes"], memory._replace(runtime=runtime))
    return found


def table(found: dict[tuple[str, str], Outcome]) -> Table:
    shown = Table(title=f"Peak memory of a device's process, batches of {BATCH}, MB")
    for column in ("model", "way to train", "predicted", "measured", "error"):
        shown.add_column(column, justify="left" if column in ("model", "way to train") else "right")
    for (name, title), got in found.items():
        cells = (f"{got.predicted.total / 1e6:,.0f}", f"{got.measured / 1e6:,.0f}", f"{got.error:.1%}")
        shown.add_row(name, title, *cells, end_section=title == list(WAYS)[-1])
    return shown


def figures(found: dict[tuple[str, str], Outcome]) -> dict[str, Figure]:
    worst = max(got.error for got in found.values())
    made = {"worst_prediction_error": Figure(worst, "fraction", "lower", TARGET)}
    for (name, title), got in found.items():
        predicted, measured = got.predicted.total / 1e6, got.measured / 1e6
        made[f"{name}, {title}"] = Figure(predicted, "MB", "lower", None, {"measured": measured})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small models: within a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    console = Console()
    found = measure(quick)
    console.print(table(found))
    command = "python -m simulations.benchmarks.memory" + " --quick" * quick
    write("memory", figures(found), command, packages=["torch", "flwr"])
    console.print("written to results/memory.json")


if __name__ == "__main__":
    main()
