"""Accuracy of shipped experiments by what trains on devices: the native trainer beside torch, several seeds each.

    python -m simulations.benchmarks.trainers --data-dir DATA
    python -m simulations.benchmarks.trainers --quick

Each run is a folder under runs/trainers/; one that is complete is not run again and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from simulations.benchmarks._report import Figure, write

EXPERIMENTS = ("digits", "ucihar", "cifar10", "keywords", "fleet_digits")
"""The last one's accuracies are of its tiers."""
TRAINERS = ("native", "torch")
_QUICK = ("rounds=3", "pretraining.epochs=3")


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--quick", action="store_true", help="the digits, three rounds, one seed")
    options = parser.parse_args()
    if options.quick:
        options.experiments, options.seeds = ("digits",), 1
    console, figures = Console(), dict[str, Figure]()
    shown = Table("experiment", "native, %", "torch, %", "native, s", "torch, s", title="Accuracy by trainer, in torch")
    for name in options.experiments:
        found = {
            trainer: [ran(name, trainer, seed, options.data_dir, options.quick) for seed in range(options.seeds)]
            for trainer in TRAINERS
        }
        for part in found["native"][0]["accuracies"]:
            own, other = ([100 * each["accuracies"][part] for each in found[trainer]] for trainer in TRAINERS)
            label = f"{name}, {part}" if part else name
            seconds = [f"{statistics.mean(each['train_s'] for each in found[trainer]):.1f}" for trainer in TRAINERS]
            shown.add_row(label, spread(own), spread(other), *seconds)
            against = {
                "torch": statistics.mean(other),
                "its standard deviation": deviation(other),
                "native's standard deviation": deviation(own),
            }
            figures[label] = Figure(statistics.mean(own), "%", "higher", None, against)
    console.print(shown)
    path = write("trainers", figures, "python -m simulations.benchmarks.trainers --data-dir DATA", ["torch", "flwr"])
    console.print(f"written to {path.parent.name}/{path.name}")


def ran(name: str, trainer: str, seed: int, data_dir: str | None, quick: bool) -> dict[str, Any]:
    """Accuracies by tier (one without a name where there are none), and seconds of all training phases."""
    folder = Path("runs/trainers") / f"{name}{'_quick' * quick}-{trainer}-{seed}"
    if not (folder / "result.json").exists():
        command = [sys.executable, "-m", "fedprune.cli", "simulate", f"simulations/{name}.toml", "--out", str(folder),
                   "--resume", "--seed", str(seed), "--set", f"training.engine={trainer}"]  # fmt: skip
        command += ["--data-dir", data_dir] if data_dir else []
        command += [word for change in (_QUICK if quick else ()) for word in ("--set", change)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".log").open("a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = {row.get("part", ""): row["accuracy"] for row in rows if row["phase"] == "evaluate"}
    return {"accuracies": last, "train_s": sum(row["seconds"] for row in rows if row["phase"] == "train")}


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {deviation(values):.2f}"


if __name__ == "__main__":
    main()
