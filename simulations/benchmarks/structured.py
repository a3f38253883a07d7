"""Channels by score down to a half and a quarter of the multiply-adds: accuracy, bytes, instructions, milliseconds.

    python -m simulations.benchmarks.structured --data-dir DATA    # ResNet-8 on CIFAR-10, DS-CNN on spoken words
    python -m simulations.benchmarks.structured --quick            # the digits, two rounds, one seed

Each run is a folder under runs/structured/; one that is complete is not run again, one that was stopped goes on, and
what was measured on the emulated chip is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fedprune.budgets import macs
from fedprune.experiment import load
from fedprune.export.c99 import boards
from fedprune.export.chip import benching
from fedprune.runs import shipping
from fedprune.runs.setting import prepare
from simulations.benchmarks._report import Figure, write

CHIP, WAY = "cortex-m4", "C99, smallest"
SHARES = (1.0, 0.5, 0.25)
NEAR = 2.0
"""Percent by which what is taken may be below what was asked for."""
CHANGES: Mapping[str, tuple[str, ...]] = {
    "cifar10": ("data.examples=5000", "evaluate_every=6"), "keywords": ("evaluate_every=20",), "spa": ("rounds=2",),
}  # fmt: skip
"""Experiment -> settings by which it takes minutes."""


class Ran(NamedTuple):
    """A run, and what its model takes where it runs."""

    result: Mapping[str, Any]
    chip: Mapping[str, int]
    model: bytes
    asked: int
    """Multiply-adds."""


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--criterion", default="snip", help="the score of channels: magnitude, snip or wanda")
    parser.add_argument("--scratch", action="store_true", help="the narrow nets from fresh weights too (Scratch-E, -B)")
    parser.add_argument("--quick", action="store_true", help="the digits, two rounds, one seed: within a minute")
    given = parser.parse_args()
    if lacking := boards.missing(CHIP):
        sys.exit(f"not measured: {lacking}")
    names, seeds = (("spa",), 1) if given.quick else (("cifar10", "keywords"), given.seeds)
    shares = SHARES[:2] if given.quick else SHARES
    found: dict[tuple[str, float], list[Ran]] = {}
    for name, share in ((name, share) for name in names for share in shares):
        runs = _runs(name, share, seeds, given.criterion, given.data_dir, given.quick, given.scratch)
        found[name, share] = list(runs)
    latencies = benching.on_host([rows[0].model for rows in found.values()])
    milliseconds = {key: each.latency.median_ms for key, each in zip(found, latencies, strict=True)}
    Console(width=120).print(_table(found, milliseconds))
    name = "structured" + "_quick" * given.quick
    command = "python -m simulations.benchmarks.structured" + " --quick" * given.quick
    write(name, _figures(found, milliseconds), command, packages=["torch", "ai-edge-litert"])
    print(f"written to results/{name}.json")


def _runs(
    name: str, share: float, seeds: int, criterion: str, data_dir: str | None, quick: bool, scratch: bool
) -> Iterator[Ran]:
    """The runs of an experiment at a share of its net's multiply-adds; all of them are the net as it is (FedAvg)."""
    source = f"simulations/{name}.toml"
    setting = prepare(load(Path(source), CHANGES[name]), source, data_dir)
    asked = int(share * macs(shipping.graph(setting, setting.model())))
    method = '{name="fedavg"}' if share == 1 else f'{{name="spa", criterion="{criterion}", macs={asked}}}'
    way = "fedavg" if share == 1 else f"{criterion}-{share:g}"
    more = ["--scratch"] if scratch and share < 1 else []
    for seed in range(seeds):
        folder = Path("runs/structured") / f"{name}{'-quick' * quick}-{way}-{seed}"
        done = folder / "result.json"
        if not done.exists() or (more and "scratch" not in json.loads(done.read_text())):
            changes = [part for each in (*CHANGES[name], f"method={method}") for part in ("--set", each)]
            changes += ["--data-dir", data_dir] if data_dir else []
            command = [sys.executable, "-m", "fedprune.cli", "simulate", source, "--out", str(folder), "--resume",
                       "--seed", str(seed), *more, *changes]  # fmt: skip
            folder.parent.mkdir(parents=True, exist_ok=True)
            with folder.with_suffix(".log").open("a") as log:
                subprocess.run(command, stdout=log, stderr=log, check=True)
            print(f"{name}, {way}, seed {seed}: {folder}", flush=True)
        model, kept = (folder / "model.tflite").read_bytes(), folder / f"{CHIP}.json"
        if not kept.exists():
            kept.write_text(json.dumps(benching.on_chip(model, CHIP)[WAY]._asdict()) + "\n")
        result = json.loads((folder / "result.json").read_text())
        yield Ran(result, json.loads(kept.read_text()), model, asked)


Measure = Callable[[Ran], float]
MEASURES: Mapping[str, tuple[str, Measure]] = {
    "accuracy": ("%", lambda ran: 100 * ran.result["accuracy_float"]),
    "accuracy_int8": ("%", lambda ran: 100 * ran.result["accuracy_int8"]),
    "macs": ("multiply-adds", lambda ran: ran.result["macs"]),
    "tflite": ("bytes", lambda ran: len(ran.model)),
    "flash": ("bytes", lambda ran: ran.chip["flash_bytes"]),
    "ram": ("bytes", lambda ran: ran.chip["ram_bytes"]),
    "instructions": ("instructions", lambda ran: ran.chip["instructions"]),
}


def _figures(
    found: Mapping[tuple[str, float], list[Ran]], milliseconds: Mapping[tuple[str, float], float]
) -> dict[str, Figure]:
    made = {}
    for (name, share), rows in found.items():
        key = f"{name}_{share:g}"
        for what, (unit, measure) in MEASURES.items():
            values, dense = [measure(each) for each in rows], [measure(each) for each in found[name, 1.0]]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            against = {"standard deviation over seeds": spread, "all channels": statistics.mean(dense)}
            better, target = ("higher" if unit == "%" else "lower"), float(rows[0].asked) if what == "macs" else None
            made[f"{key}_{what}"] = Figure(statistics.mean(values), unit, better, target, against)  # type: ignore[arg-type]
        short = max(100 * (1 - each.result["macs"] / each.asked) for each in rows)
        made[f"{key}_short_of_macs"] = Figure(short, "%", "lower", NEAR)
        for arm in ("E", "B"):
            if fresh := [each.result["scratch"]["arms"][arm]["values"] for each in rows if each.result.get("scratch")]:
                worth = [100 * statistics.mean(each) for each in fresh]
                spread = statistics.stdev(worth) if len(worth) > 1 else 0.0
                beside = {"standard deviation over seeds": spread, "pruned": made[f"{key}_accuracy"].value}
                made[f"{key}_scratch_{arm.lower()}"] = Figure(statistics.mean(worth), "%", "higher", None, beside)
        made[f"{key}_latency"] = Figure(milliseconds[name, share], "ms, this computer", "lower")
    return made


def _table(found: Mapping[tuple[str, float], list[Ran]], milliseconds: Mapping[tuple[str, float], float]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("experiment", "of all", *MEASURES, "ms here"):
        shown.add_column(column, justify="left" if column == "experiment" else "right")
    for (name, share), rows in found.items():
        cells = []
        for unit, measure in MEASURES.values():
            values = [measure(each) for each in rows]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 and unit == "%" else ""
            mean = statistics.mean(values)
            cells.append(f"{mean:.2f}{spread}" if unit == "%" else f"{mean:,.0f}")
        shown.add_row(name, f"{share:g}", *cells, f"{milliseconds[name, share]:.3f}")
    return shown


if __name__ == "__main__":
    main()
