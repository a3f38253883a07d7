"""Whether a candidate's loss, as FedTiny compares candidates, tells what training makes of it.

    python -m simulations.benchmarks.selection              # digits: two densities, five seeds, ten candidates each
    python -m simulations.benchmarks.selection --quick      # one density, one seed, three candidates, a few rounds

Every candidate of a pool is trained to the end in a run of its own, with the rest of FedTiny left out. Its accuracy on
devices' test parts then is set against its loss on their development parts: before any training, with batch-norm
statistics that were measured anew (adaptive) and without (vanilla), by development parts of a tenth and of three tenths
of a device's examples; and after some rounds of training. Spearman's rank correlation over the pool, its mean over
seeds, and how accurate the candidate of the lowest loss is in the end. No test example chooses anything but here.

Each run is a file under runs/selection/, and one that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from fedprune import training
from fedprune.data.loading import all_parts, in_order
from fedprune.experiment import load
from fedprune.federated.link import engines
from fedprune.files import write_atomically
from fedprune.methods.dynamic.fedtiny import fedtiny
from fedprune.methods.layers import Shapes
from fedprune.runs import over_flower
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare
from fedprune.types import Found, Method, Model
from simulations.benchmarks._report import Figure, write

_FILE = Path(__file__).resolve().parents[1] / "methods.toml"
_ASKED = (1, 2, 3, 5, 8, 12, 16)
"""Rounds after which the development loss is looked at."""
_LOSSES = {"adaptive": ("mean", 0.1), "vanilla": ("vanilla", 0.1)}
_LARGER = {"adaptive, three tenths": ("mean", 0.3), "vanilla, three tenths": ("vanilla", 0.3)}


class Size(NamedTuple):
    """How much is run."""

    densities: tuple[float, ...]
    seeds: int
    pool: int
    rounds: int


_WHOLE, _QUICK = Size((0.05, 0.01), 5, 10, 24), Size((0.05,), 1, 3, 3)


class Job(NamedTuple):
    """A run: candidate ``which`` of a pool, or what the losses alone are with other statistics or other parts."""

    density: float
    seed: int
    pool: int
    rounds: int
    which: int
    statistics: str = "mean"
    development: float = 0.1

    def file(self) -> Path:
        """Where what it came to is kept."""
        return Path("runs/selection") / ("-".join(map(str, self)) + ".json")


def nth(layers: Shapes, *, density: float, pool: int, which: int, statistics: str = "mean", seed: int = 0) -> Method:
    """FedTiny that takes candidate ``which`` whatever the losses are, which it keeps, and swaps nothing."""
    whole = fedtiny(layers, density=density, pool=pool, stop=0, statistics=statistics, seed=seed)

    def act(model: Model, found: Found, round: int) -> Model:
        if round or not (told := found.get("losses")):
            return whole.act(model, found, round)
        losses = told["loss"]
        told = {**told, "loss": np.where(np.arange(pool) == which, 0.0, 1.0)}
        chosen = whole.act(model, {**found, "losses": told}, round)
        return chosen._replace(memory={**chosen.memory, "losses": losses})

    return whole._replace(act=act)


def main() -> None:
    """Run what is missing, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    size = _QUICK if options.quick else _WHOLE
    found = _ran(_jobs(size), options.jobs)
    figures: dict[str, Figure] = {}
    table = Table("density", "by", "Spearman, mean ± spread", "accuracy of the choice, %", "chance", "best", box=None)
    for density in size.densities:
        for by, told in _judged(found, size, density).items():
            figures[f"d{density:g}, {by}, Spearman"] = Figure(
                told.mean, "rank correlation", "higher", against={"spread over seeds": told.spread}
            )
            figures[f"d{density:g}, {by}, choice"] = Figure(
                told.choice, "%, accuracy", "higher", against={"chance": told.chance, "best of the pool": told.best}
            )
            row = f"{told.mean:.2f} ± {told.spread:.2f}", f"{told.choice:.1f}", f"{told.chance:.1f}", f"{told.best:.1f}"
            table.add_row(f"{density:g}", by, *row)
    Console().print(table)
    print(
        write(f"selection{'_quick' * options.quick}", figures, "python -m simulations.benchmarks.selection", ["torch"])
    )


def _jobs(size: Size) -> list[Job]:
    trained = [
        Job(density, seed, size.pool, size.rounds, which)
        for seed in range(size.seeds)
        for density in size.densities
        for which in range(size.pool)
    ]
    asked = {
        Job(each.density, each.seed, size.pool, 1, 0, *how) for each in trained for how in (_LOSSES | _LARGER).values()
    }
    return [*sorted(asked), *trained]


def _ran(jobs: list[Job], processes: int) -> dict[Job, Mapping[str, Any]]:
    missing = [job for job in jobs if not job.file().exists()]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for done, future in enumerate(as_completed([pool.submit(run, job) for job in missing]), 1):
            future.result()
            print(f"  {done} of {len(missing)} runs", flush=True)
    return {job: json.loads(job.file().read_text()) for job in jobs}


def run(job: Job) -> None:
    """Train a candidate, and keep its losses, its curve on development parts and its accuracy on test parts."""
    method = f'{{name="simulations.benchmarks.selection:nth", density={job.density}, pool={job.pool}, which={job.which}'
    changes = [
        f"rounds={job.rounds}", "evaluate_every=1", f"data.development={job.development}",
        f'method={method}, statistics="{job.statistics}"}}', 'evaluate_on="development"',
    ]  # fmt: skip
    experiment = load(_FILE, changes, seed=job.seed)
    setting = prepare(experiment, str(job))
    kept: dict[str, Any] = {}

    def serve(grid: Any) -> None:
        link = over_flower.link(grid, experiment, lambda row: None, gives=setting.holds, more=setting.more())
        with tempfile.TemporaryDirectory() as name:
            folder = RunFolder(Path(name))
            folder.begin(experiment)
            last, _ = rounds(link, setting, folder, None, lambda row: None)
            curve = {row["round"]: row["loss"] for row in folder.rows() if row["phase"] == "evaluate"}
        test = in_order(setting.schema, all_parts(experiment).test, 256)
        outcome = training.evaluate(setting.model(last.params), test, setting.task)
        kept.update(losses=last.memory["losses"].tolist(), curve=curve, accuracy=outcome.value(setting.task))

    engines.local(len(setting.holds), None, serve, workers=1)
    job.file().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(job.file(), json.dumps(kept).encode())


class Judged(NamedTuple):
    """What one way of comparing candidates is worth, over seeds."""

    mean: float
    spread: float
    choice: float
    chance: float
    best: float


def _judged(found: Mapping[Job, Mapping[str, Any]], size: Size, density: float) -> dict[str, Judged]:
    ways: dict[str, list[tuple[list[float], list[float]]]] = {}
    for seed in range(size.seeds):
        own = [found[Job(density, seed, size.pool, size.rounds, which)] for which in range(size.pool)]
        accuracies = [100 * each["accuracy"] for each in own]
        for by, how in (_LOSSES | _LARGER).items():
            asked = found[Job(density, seed, size.pool, 1, 0, *how)]
            ways.setdefault(f"{by}, before training", []).append((asked["losses"], accuracies))
        for round in (each for each in _ASKED if each < size.rounds):
            ways.setdefault(f"after round {round}", []).append(
                ([each["curve"][str(round)] for each in own], accuracies)
            )
    return {by: _over_seeds(seeds) for by, seeds in ways.items()}


def _over_seeds(seeds: list[tuple[list[float], list[float]]]) -> Judged:
    ranks = [float(stats.spearmanr([-loss for loss in losses], accuracies).statistic) for losses, accuracies in seeds]
    return Judged(
        statistics.mean(ranks),
        statistics.stdev(ranks) if len(ranks) > 1 else 0.0,
        statistics.mean(accuracies[int(np.argmin(losses))] for losses, accuracies in seeds),
        statistics.mean(statistics.mean(accuracies) for _, accuracies in seeds),
        statistics.mean(max(accuracies) for _, accuracies in seeds),
    )


if __name__ == "__main__":
    main()
