"""Benchmark of training: the native trainer beside torch, dense and masked, each in a process of its own."""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedprune import models, training
from fedprune.counter_rng import uniforms
from fedprune.experiment import for_devices, parse, to_json
from fedprune.federated.link.records import to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.graph import trace
from fedprune.graph.message import to_text
from fedprune.pruning import masks
from fedprune.training.lean import PLAIN, Lean
from fedprune.training.native import NET
from fedprune.types import Masks, Params
from fedprune.wire.payload import Payload, to_blobs
from simulations.benchmarks import _memory_device, _training_device, _training_round
from simulations.benchmarks._memory_device import DATA, SHAPES
from simulations.benchmarks._report import Figure, write


class Case(NamedTuple):
    """A model at a density, the same examples for all."""

    model: str
    density: float
    batch: int = 32
    steps: int = 6
    recompute: bool = False


SPEEDS = {
    "resnet18_d001": Case("resnet18", 0.01),
    "resnet18_d005": Case("resnet18", 0.05),
    "resnet18_d010": Case("resnet18", 0.1),
    "resnet8_d010": Case("resnet8", 0.1, steps=20),
    "dscnn_dense": Case("dscnn", 1.0, steps=40),
}
TARGETS = {"resnet18_d001": 15.0, "resnet18_d005": 6.0, "resnet18_d010": 3.5, "resnet8_d010": 1.5, "dscnn_dense": 1.0}
LITTLE = Case("resnet18", 0.01, batch=8, steps=3, recompute=True)
QUICK = ("resnet8_d010", "dscnn_dense")


def given(case: Case) -> tuple[Params, Masks, str]:
    """(weights, masks, graph): the first layer and the last stay dense, as in a run."""
    torch.manual_seed(0)
    shape = SHAPES[case.model]
    model = models.build(case.model, shape, 10)
    state = training.state_of(model)
    layers = [name for name, each in model.named_parameters() if each.ndim > 1][1:-1]
    found = {name: uniforms(0, name, state[name].shape) < case.density for name in layers if case.density < 1}
    return (
        masks.apply(state, found),
        found,
        to_text(trace(model, torch.zeros(1, *shape)), {n: (v.shape, v.dtype.name, True) for n, v in state.items()}),
    )


def ran(case: Case, way: str, *, masked: bool = False, request: bytes = b"") -> dict[str, Any]:
    """What a process says."""
    params, kept, net = given(case)
    job = {**case._asdict(), "way": way, "masked": masked, "shape": SHAPES[case.model], "net": net}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        (folder / "request").write_bytes(request)
        for kind, blob in to_blobs(Payload({}, params, kept)).items():
            (folder / f"{kind}.blob").write_bytes(blob)
        np.savez(folder / "params.npz", **params, **{f"mask/{key}": mask for key, mask in kept.items()})  # type: ignore[arg-type]
        command = [sys.executable, "-m", _training_device.__name__, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a process failed:\n{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def simulated(engine: str, density: float) -> float:
    """Seconds of a round of training in a simulation by one process."""
    command = [sys.executable, "-m", _training_round.__name__, engine, str(density)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def message(case: Case, engine: str, lean: Lean = PLAIN) -> bytes:
    """A training message as a server sends it."""
    params, kept, net = given(case)
    name = f"{_memory_device.__name__}:{DATA[SHAPES[case.model]]}"
    data = {"name": name, "partition": "iid", "devices": 1, "public": 0, "development": 0}
    table = {
        "name": "training", "data": data, "model": case.model, "method": {"name": "fedavg"}, "rounds": 1,
        "training": {"batch": case.batch, "engine": engine},
    }  # fmt: skip
    experiment = for_devices(parse(table, "benchmark"))
    values = {"round": 1, "learning_rate": 0.01, "experiment": to_json(experiment), **Job(lean=lean).to_values()}
    return pickle.dumps(to_records(Payload({**values, **({NET: net} if engine == "native" else {})}, params, kept)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models alone: within a minute")
    quick = parser.parse_args().quick
    console, figures = Console(), dict[str, Figure]()
    shown = Table(title="A training step, one thread, processor time")
    for column in ("case", "torch dense, ms", "torch masked, ms", "native, ms", "speedup", "target", "native peak, MB"):
        shown.add_column(column, justify="left" if column == "case" else "right")
    for name, case in SPEEDS.items():
        if quick and name not in QUICK:
            continue
        # in turns, so that what else the machine does falls on all alike
        turns = [
            (ran(case, "torch"), ran(case, "torch", masked=True), ran(case, "native")) for _ in range(1 if quick else 3)
        ]
        dense, under, own = (min(turn[at]["seconds"] for turn in turns) / case.batch * 1e3 for at in range(3))
        key, target = f"{name}_speedup", TARGETS[name]
        figures[key] = Figure(dense / own, "times", "higher", target, {"torch, masked": dense / under})
        peak = max(turn[2]["peak_bytes"] for turn in turns) / 1e6
        cells = (f"{dense:.2f}", f"{under:.2f}", f"{own:.2f}", f"{dense / own:.1f}", f"{target:g}", f"{peak:.0f}")
        shown.add_row(name, *cells)
    console.print(shown)
    if not quick:
        little = ran(LITTLE, "bytes")
        peak, arena = little["peak_bytes"] / 1e6, little["arena_bytes"] / 1e6
        figures["resnet18_d001_peak_mb"] = Figure(peak, "MB", "lower", 64, {"of it the arena": arena})
        console.print(
            f"a training message of resnet18 at 0.01, batch 8, blocks recomputed: {peak:.0f} MB, of it {arena:.0f} the "
            "arena; at most 64"
        )
        rounds = {how: simulated(*how) for how in (("native", 0.01), ("torch", 1.0))}
        gain = rounds["torch", 1.0] / rounds["native", 0.01]
        figures["simulation_resnet18_d001_speedup"] = Figure(gain, "times", "higher", 8)
        console.print(f"a simulated round of resnet18 at 0.01: {gain:.1f} times as fast as dense in torch; at least 8")
    client = Case("dscnn", 0.1)
    sizes = {engine: ran(client, "message", request=message(client, engine)) for engine in ("native", "torch")}
    assert not sizes["native"]["torch"], "a device that trains natively has loaded torch"
    peak, torch_peak = (sizes[engine]["peak_bytes"] / 1e6 for engine in ("native", "torch"))
    figures["keywords_client_peak_mb"] = Figure(peak, "MB", "lower", 110, {"torch": torch_peak})
    console.print(
        f"a client's training message, dscnn, batch 32: {peak:.0f} MB, with torch {torch_peak:.0f}; at most 110"
    )
    path = write(
        "training", figures, "python -m simulations.benchmarks.training" + " --quick" * quick, ["torch", "flwr"]
    )
    console.print(f"written to {path.parent.name}/{path.name}")


if __name__ == "__main__":
    main()
