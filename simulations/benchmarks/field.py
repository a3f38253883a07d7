"""FedTiny beside the field: figures of a comparison that is complete as far as it goes, and the cost model's ratios.

    fedprune compare simulations/compare/laptop.toml --data-dir DATA      # about ten hours, in pieces that resume
    python -m simulations.benchmarks.field                                # reads runs/compare/laptop/comparison.json
    python -m simulations.benchmarks.field --table A/comparison.json B/comparison.json     # experiment by experiment
    python -m simulations.benchmarks.field --quick                        # three methods on few digits; writes nothing

Differences are means over seeds that both have, with half of their 95 % interval beside them. What a table lacks has no
figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Column, Table

from fedprune import models, training
from fedprune.budgets import accounted
from fedprune.graph import trace
from fedprune.runs.compare.summary import difference
from simulations.benchmarks._report import Figure, write

_TABLE = Path("runs/compare/laptop/comparison.json")
_STATIC = ("random_erk", "random_uniform", "magnitude", "magnitude_floor", "snip", "grasp", "ssfl", "synflow")
_OURS = (
    "fedtiny", "one_candidate", "progressive_alone", "selection_alone", "vanilla_selection", "pooled_variance",
    "erk_noise", "by_layer", "entire", "forward", "fedtiny_halving",
)  # fmt: skip
_PLUS = ("fedtiny_plus", "plus_unmoved")
_DENSITIES = {"d020": 0.2, "d005": 0.05, "d002": 0.02, "d001": 0.01}


def main() -> None:
    """Read the table, print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    tables = "comparison.json of a comparison, or several of other experiments each"
    parser.add_argument("--table", type=Path, nargs="+", default=[_TABLE], help=tables)
    parser.add_argument("--quick", action="store_true", help="a comparison of a minute instead; nothing is written")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as name:
            command = [
                sys.executable,
                "-m",
                "fedprune.cli",
                "compare",
                "simulations/compare/field_quick.toml",
                "--out",
                name,
            ]
            subprocess.run(command, check=True)
            table = json.loads((Path(name) / "comparison.json").read_text())
    else:
        table = joined([json.loads(path.read_text()) for path in options.table])
    figures = {**of_table(table), **published()}
    console, shown = Console(), Table(Column("figure", no_wrap=True), "value", "unit", "beside", box=None)
    for name, figure in figures.items():
        beside = ", ".join(f"{key} {value:.4g}" for key, value in figure.against.items())
        shown.add_row(name, f"{figure.value:.4g}", figure.unit, beside)
    console.print(shown)
    if options.quick:
        return
    path = write("field", figures, "python -m simulations.benchmarks.field", ("flwr", "torch"))
    lines = [{key: value for key, value in line.items() if key != "curve"} for line in table["lines"]]
    finals = {name: cell["curve"][-1][1] for name, cell in table["cells"].items() if cell.get("curve")}
    more = {"rates": table["rates"], "lines": lines, "finals": finals}
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}, indent=1, ensure_ascii=False) + "\n")
    console.print(f"written to {path.parent.name}/{path.name}")


def joined(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Comparisons of different experiments as one."""
    return {
        "lines": [line for each in tables for line in each["lines"]],
        **{key: {name: value for each in tables for name, value in each[key].items()} for key in ("cells", "rates")},
    }


def of_table(table: Mapping[str, Any]) -> dict[str, Figure]:
    """How many methods and cells, and how FedTiny does at each density, by experiment."""
    cells = {name: each for name, each in table["cells"].items() if each.get("curve")}
    figures = {
        "methods_compared": Figure(len({each["method"] for each in cells.values()}), "methods", "higher", 20),
        "cells": Figure(len(cells), "runs", "higher"),
    }
    for experiment in dict.fromkeys(each["experiment"] for each in cells.values()):
        for key, density in _DENSITIES.items():
            found: dict[str, dict[int, float]] = {}
            for each in cells.values():
                if (each["experiment"], each["density"]) == (experiment, density):
                    found.setdefault(each["method"], {})[each["seed"]] = 100 * each["curve"][-1][1]
            figures |= _ours(f"{experiment}_", key, found)
    return figures


def _ours(prefix: str, key: str, found: Mapping[str, Mapping[int, float]]) -> dict[str, Figure]:
    """How FedTiny, and what the server prunes while it pretrains, do against the best of a group each."""
    figures = dict[str, Figure]()
    field = [method for method in found if method not in (*_OURS, *_PLUS)]
    for name, own, group, sign in (
        ("fedtiny_over_best_static", "fedtiny", _STATIC, 1),
        ("fedtiny_over_best_ablation", "fedtiny", _OURS[1:], 1),
        ("best_method_over_fedtiny", "fedtiny", field, -1),
        ("fedtiny_plus_over_fedtiny", "fedtiny_plus", ["fedtiny"], 1),
        ("fedtiny_plus_over_best_static", "fedtiny_plus", _STATIC, 1),
        ("best_method_over_fedtiny_plus", "fedtiny_plus", field, -1),
    ):
        if own in found and (best := _best(found, group)):
            apart = difference(found[own], found[best])
            if apart is not None:
                beside = {
                    "half of its interval": apart.half,
                    "seeds": apart.seeds,
                    best: statistics.mean(found[best].values()),
                }
                target = 0.0 if sign > 0 and key != "d020" else None
                figures[f"{prefix}{name}_{key}"] = Figure(sign * apart.mean, "points", "higher", target, beside)
    return figures


def _best(found: Mapping[str, Mapping[int, float]], group: Sequence[str]) -> str | None:
    there = [method for method in group if method in found]
    return max(there, key=lambda method: statistics.mean(found[method].values()), default=None)


def published() -> dict[str, Figure]:
    """The accounted costs of ResNet-18 at density 0.01 by those of dense training, and what papers state."""
    model = models.build("resnet18", (3, 32, 32), 10).eval()
    params, graph = training.state_of(model), trace(model, torch.zeros(1, 3, 32, 32))
    layers = [name for name, value in params.items() if value.ndim > 1][1:-1]
    kept, examples = {name: int(0.01 * params[name].size) for name in layers}, 5 * 5000
    flops, memory = accounted.training_flops(graph, {}, examples), accounted.training_bytes(params, {})
    grown = int(0.3 * sum(kept.values()))
    ratios = {
        "fedtiny_flops": (accounted.training_flops(graph, kept, examples, dense=64) / flops, 0.014),
        "fedtiny_memory": (accounted.training_bytes(params, kept, grown=grown) / memory, 0.03),
        "prunefl_flops": (accounted.training_flops(graph, kept, examples, dense=examples) / flops, 0.34),
        "prunefl_memory": (accounted.training_bytes(params, kept, dense=True) / memory, 0.51),
    }
    return {
        f"accounted_{name}": Figure(value, "of dense", "lower", None, {"published": stated})
        for name, (value, stated) in ratios.items()
    }


if __name__ == "__main__":
    main()
