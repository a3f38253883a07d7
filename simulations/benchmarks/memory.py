"""Benchmark of the cost model: peak memory of a device's process, predicted from the graph and measured."""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import RecordDict
from rich.console import Console
from rich.table import Table

from fedprune import models, training
from fedprune.budgets import Memory, extra_of, training_memory
from fedprune.counter_rng import uniforms
from fedprune.experiment import parse, to_json
from fedprune.federated.link.asking import Link
from fedprune.federated.link.records import to_records
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import run
from fedprune.graph import trace
from fedprune.pruning import masks
from fedprune.runs.setting import prepare
from fedprune.training.lean import Lean, blocks
from fedprune.types import Local, Params
from fedprune.wire.payload import Payload
from simulations.benchmarks import _memory_device, _memory_native
from simulations.benchmarks._limited import LimitedGrid
from simulations.benchmarks._memory_device import (
    DATA,
    EXAMPLES,
    MEMORY,
    SCORE,
    SHAPES,
    WEIGHT,
    adaptive,
    plain,
    scored,
    taught,
)
from simulations.benchmarks._report import Figure, write

BATCH = 64
TARGET = 0.10


class Way(NamedTuple):
    """A way to train."""

    lean: Lean
    density: float = 1.0
    local: Callable[[Iterable[str]], Local] = plain
    """Names in its memory -> what the method does."""


WAYS = {
    "whole batches, dense": Way(Lean()),
    "whole batches, masked at 0.1": Way(Lean(), 0.1),
    "recomputed, 8 at a time": Way(Lean(micro_batch=8, recompute=True)),
    "sparse at 0.1, recomputed, 8 at a time": Way(Lean(micro_batch=8, recompute=True, sparse=True), 0.1),
    "whole batches, a teacher": Way(Lean(), local=taught),
    "8 at a time, a teacher": Way(Lean(micro_batch=8), local=taught),
    "whole batches, trained scores": Way(Lean(), local=scored),
    "8 at a time, trained scores": Way(Lean(micro_batch=8), local=scored),
    "whole batches, Adam": Way(Lean(), local=adaptive),
}
TIERS = {"large": 0.3, "middle": 0.1, "small": 0.03}
LIMITS = {
    "torch": {"digits_cnn": (400, 340, 320), "resnet8": (512, 360, 345)},
    "native": {"digits_cnn": (160, 96, 92), "resnet8": (256, 128, 110)},
}
"""MiB for each tier, by what trains."""
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
    layers = tuple(weights)[1:-1] if way.density < 1 else ()
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
    beside = memory_of(way.local, state, weights)
    values = {"experiment": to_json(experiment), "lean": way.lean._asdict(), "local": way.local.__name__}
    memory = training_memory(
        graph,
        batch=BATCH,
        micro_batch=way.lean.micro_batch,
        recompute=blocks(model) if way.lean.recompute else (),
        sparse=way.lean.sparse,
        kept={key: int(mask.sum()) for key, mask in pruned.items()},
        examples=EXAMPLES,
        example_bytes=int(np.prod(shape)),
        extra=extra_of(way.local(beside), beside),
    )
    tensors = {**masks.apply(state, pruned), **{MEMORY + key: value for key, value in beside.items()}}
    return to_records(Payload(values, tensors, pruned)), memory


def memory_of(local: Callable[[Iterable[str]], Local], state: Params, weights: Iterable[str]) -> Params:
    """What travels besides the model: a teacher, or scores and weights of every layer that can be pruned."""
    if local is scored:
        layers = tuple(weights)[1:-1]
        scores = {SCORE + key: np.abs(state[key]) for key in layers}
        return {**scores, **{WEIGHT + key: state[key] for key in layers}}
    return state if local is taught else {}


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


def limited(engine: str, quick: bool) -> dict[tuple[str, str], tuple[int, int, int]]:
    """A run whose devices' memory is really limited: (model, tier) -> allowed, predicted and measured bytes.

    Every message of two rounds, growth included, is answered by a fresh process under the tier's limit.
    """
    found = {}
    for name, allowed in [*LIMITS[engine].items()][: 1 if quick else None]:
        tiers = {
            tier: {"devices": 1, "train_memory_bytes": size * 2**20, "density": density}
            for (tier, density), size in zip(TIERS.items(), allowed, strict=True)
        }
        experiment = parse(
            {
                "name": "memory",
                "data": {"name": f"{_memory_device.__name__}:{DATA[SHAPES[name]]}", "partition": "iid", "public": 0.1},
                "model": name,
                "method": {"name": "fedtiny", "density": 0.3, "pool": 2, "period": 1, "stop": 2},
                "rounds": 1 if quick else 2,
                "evaluate_every": 2,
                "training": {"batch": 16, "learning_rate": 0.01, "engine": engine},
                "pretraining": {"epochs": 0},
                "fleet": tiers,
            },
            "benchmark",
        )
        setting = prepare(experiment, "benchmark")
        assert setting.plan is not None
        grid = LimitedGrid({device: size * 2**20 for device, size in enumerate(allowed)}, torch=engine == "torch")
        link, start = Link(grid, experiment, more=setting.more()), State(-1, training.state_of(setting.model()))
        for step in run(link, setting.tiers(), len(allowed), start):
            assert not {**step.row.get("refused", {}), **step.row.get("faults", {})}, step.row
        for device, (tier, size) in enumerate(zip(TIERS, allowed, strict=True)):
            memory = setting.plan.tiers[tier].memory
            assert memory is not None
            peak = max(size for (which, _), size in grid.peaks.items() if which == device)
            found[name, tier] = (size * 2**20, memory.total, peak)
    return found


def limits_table(engine: str, found: dict[tuple[str, str], tuple[int, int, int]]) -> Table:
    shown = Table(title=f"A run under enforced limits, {engine}, whole processes, all phases, MiB")
    for column in ("model", "tier", "allowed", "predicted", "measured"):
        shown.add_column(column, justify="left" if column in ("model", "tier") else "right")
    for (name, tier), sizes in found.items():
        shown.add_row(name, tier, *(f"{size / 2**20:,.0f}" for size in sizes), end_section=tier == list(TIERS)[-1])
    return shown


def natively(console: Console, quick: bool) -> Figure:
    """The worst error of a client that trains without torch, over models, densities and ways."""
    shown = Table(title="Native training, a client with Flower, MB")
    for column in ("model", "density", "way", "predicted", "measured", "error"):
        shown.add_column(column, justify="left" if column in ("model", "way") else "right")
    errors = []
    for name in QUICK if quick else SHAPES:
        for density in _memory_native.DENSITIES[: 1 if quick else None]:
            for title, way in [*_memory_native.WAYS.items()][: 1 if quick else None]:
                got = Outcome(*_memory_native.measure(name, density, way))
                cells = (f"{got.predicted.total / 1e6:,.1f}", f"{got.measured / 1e6:,.1f}", f"{got.error:.1%}")
                shown.add_row(name, f"{density:g}", title, *cells)
                errors.append(got.error)
    console.print(shown)
    return Figure(max(errors), "fraction", "lower", 0.05)


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
    made = figures(found)
    made["prediction_error"] = natively(console, quick)
    over = 0
    for engine in LIMITS:
        kept = limited(engine, quick)
        console.print(limits_table(engine, kept))
        over += sum(measured > allowed for allowed, _, measured in kept.values())
        for (name, tier), (allowed, predicted, measured) in kept.items():
            against = {"allowed": allowed / 2**20, "predicted": predicted / 2**20}
            key = f"{name}, {tier}, limited, {engine}"
            made[key] = Figure(measured / 2**20, "MiB", "lower", allowed / 2**20, against)
    command = "python -m simulations.benchmarks.memory" + " --quick" * quick
    made["devices_over_budget"] = Figure(over, "devices", "lower", 0)
    write("memory", made, command, packages=["torch", "flwr"])
    console.print("written to results/memory.json")


if __name__ == "__main__":
    main()
