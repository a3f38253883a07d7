"""Who shares a budget best: RD-prune beside uniform, ERK and global magnitude, each with the flash that it takes.

    python -m simulations.benchmarks.allocation --data-dir DATA    # three nets, half an hour on two cores
    python -m simulations.benchmarks.allocation --quick            # the digits, four rounds, two seeds

All keep the largest weights of a layer and prune at the same rounds, by the same factor; they differ in how many each
layer keeps. A density says little of flash, since layers that starve lose whole channels: so each rule gets the density
at which its C sources take as much on a Cortex-M4 as RD-prune's, within 2 %, found with seed 0. What has been run lies
in runs/allocation/ and is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fedprune.experiment import load, to_json
from fedprune.export.c99 import boards
from fedprune.methods.layers import Shapes, dense, evidence, masked
from fedprune.pruning import criteria
from fedprune.pruning.allocation import erk, ranked, uniform
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import exponential
from fedprune.runs.compare import cell
from fedprune.runs.compare.cell import Work
from fedprune.runs.compare.cells import Cell
from fedprune.runs.compare.store import Store
from fedprune.runs.compare.summary import difference, mean
from fedprune.types import Found, Method, Model
from simulations.benchmarks._report import Figure, write

FOLDER = Path("runs/allocation")
NEAR, TRIES = 0.02, 8
OURS, RULES = "rd_prune", ("uniform", "erk", "global")
Told = Mapping[str, Any]


class Net(NamedTuple):
    """An experiment, and how far it is pruned."""

    file: str
    density: float
    """RD-prune's."""
    levels: int
    changes: tuple[str, ...] = ()
    seeds: int = 5


NETS = {
    "digits": Net("rd_prune", 0.02, 6),
    "ucihar": Net("ucihar", 0.02, 5),
    "cifar10": Net("cifar10", 0.05, 4, ("data.examples=10000", "rounds=12", "evaluate_every=1"), seeds=3),
}
QUICK = {"digits": Net("rd_prune", 0.1, 2, ("rounds=4", "data.examples=600"), seeds=2)}


def along(layers: Shapes, *, density: float, rule: str, levels: int, period: int = 2) -> Method:
    """Keep the largest |θ| of each layer at RD-prune's rounds, as many as a ``rule`` says."""
    allocate = {"uniform": uniform, "erk": erk(layers), "global": ranked()}[rule]
    pruner = prune(criteria.magnitude, exponential(1.0, density, end=levels), allocate=allocate)

    def act(model: Model, found: Found, round: int) -> Model:
        level = round // period
        if round % period or level >= levels:
            return model
        return masked(model, pruner.update(model.masks, evidence(model, found, pruner), level + 1))

    return Method(dense(layers), act=act)


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the digits, four rounds, two seeds: within a minute")
    given = parser.parse_args()
    if lacking := boards.missing("cortex-m4"):
        sys.exit(f"not measured: {lacking}")
    nets = QUICK if given.quick else NETS
    found: dict[str, dict[str, list[Told]]] = {}
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        first = {name: pool.submit(_runs, name, net, given.data_dir) for name, net in nets.items()}
        for name, net in nets.items():
            found[name] = {OURS: first[name].result()}
            target = _flash(found[name][OURS][0])
            jobs = {rule: pool.submit(_matched, name, net, rule, target, given.data_dir) for rule in RULES}
            found[name] |= {rule: job.result() for rule, job in jobs.items()}
            print(f"{name}: {FOLDER}", flush=True)
    Console(width=120).print(_table(found))
    name, quick = "allocation" + "_quick" * given.quick, " --quick" * given.quick
    write(name, _figures(found), f"python -m simulations.benchmarks.allocation{quick}", packages=["torch"])
    print(f"written to results/{name}.json")


def _runs(name: str, net: Net, data_dir: str | None, rule: str = OURS, density: float = 0) -> list[Told]:
    """The runs of a rule, in order of their seeds."""
    return [_run(name, net, seed, data_dir, rule, density or net.density) for seed in range(net.seeds)]


def _matched(name: str, net: Net, rule: str, target: float, data_dir: str | None) -> list[Told]:
    """The runs of a rule at the density at which seed 0 takes the ``target``'s bytes of flash."""
    tried: list[tuple[float, float, float]] = []  # (how far off, density, flash)
    density = net.density
    for _ in range(TRIES):
        flash = _flash(_run(name, net, 0, data_dir, rule, density))
        slope = flash / (2 * density)  # half of so small a model is code
        if tried and (flash - tried[-1][2]) * (density - tried[-1][1]) > 0:
            slope = (flash - tried[-1][2]) / (density - tried[-1][1])
        tried.append((abs(flash / target - 1), density, flash))
        if tried[-1][0] <= NEAR:
            break
        density = min(2 * density, max(density / 2, density + (target - flash) / slope))
    return _runs(name, net, data_dir, rule, min(tried)[1])


def _run(name: str, net: Net, seed: int, data_dir: str | None, rule: str, density: float) -> Told:
    own = {"name": OURS} if rule == OURS else {"name": "simulations.benchmarks.allocation:along", "rule": rule}
    keys = {**own, "density": round(density, 5), "levels": net.levels, "period": 2}
    method = ", ".join(f"{key}={json.dumps(value)}" for key, value in keys.items())
    source = f"simulations/{net.file}.toml"
    experiment = load(Path(source), [*net.changes, f"method={{{method}}}"], seed=seed)
    each = Cell(name, rule, keys["density"], seed)  # type: ignore[arg-type]
    work = Work(to_json(experiment), str(FOLDER / "cells" / each.name()), source, data_dir, whole=True)
    store = Store(FOLDER / f"{name}-{rule}.jsonl")  # one process at a time has it
    return store.found(work) or store.add(each, work, cell.run(work))


def _flash(told: Told) -> float:
    return float(told["chip"]["C99, smallest"]["flash_bytes"])


def _finals(runs: Sequence[Told]) -> dict[int, float]:
    return {seed: 100 * told["curve"][-1][1] for seed, told in enumerate(runs)}


def _figures(found: Mapping[str, Mapping[str, Sequence[Told]]]) -> dict[str, Figure]:
    made = {}
    for name, rules in found.items():
        for rule, runs in rules.items():
            finals, own = _finals(runs), _finals(rules[OURS])
            over = mean(list(finals.values()))
            beside = {"standard deviation over seeds": over.spread}
            apart = None if rule == OURS else difference(own, finals)
            if apart is not None:
                beside |= {f"{OURS} is better by": apart.mean, "half of its interval of 95 %": apart.half}
            made[f"{name}_{rule}"] = Figure(over.mean, "%", "higher", None, beside)
            flash = statistics.mean(_flash(each) for each in runs)
            made[f"{name}_{rule}_flash"] = Figure(flash, "bytes", "lower")
            made[f"{name}_{rule}_density"] = Figure(runs[0]["density"], "of the weights", "lower")
    return made


def _table(found: Mapping[str, Mapping[str, Sequence[Told]]]) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("net", "rule", "density", "flash, bytes", "accuracy, %", f"{OURS} is better by"):
        shown.add_column(column, justify="left" if column in ("net", "rule") else "right")
    figures = _figures(found)
    for name, rules in found.items():
        for rule in rules:
            each = figures[f"{name}_{rule}"]
            spread, *apart = each.against.values()
            better = f"{apart[0]:+.1f} ± {apart[1]:.1f}" if apart else ""
            density, flash = (figures[f"{name}_{rule}_{key}"].value for key in ("density", "flash"))
            shown.add_row(name, rule, f"{density:.4f}", f"{flash:,.0f}", f"{each.value:.2f} ± {spread:.2f}", better)
    return shown


if __name__ == "__main__":
    main()
