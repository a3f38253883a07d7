"""Tiers of unequal devices: one run's models against the same densities trained alone, and against widths.

    python -m simulations.benchmarks.fleet simulations/fleet.toml --data-dir DATA
    python -m simulations.benchmarks.fleet --quick

For every tier, over seeds: the accuracy of its part of the joint run; of a model of the same density that the whole
fleet trains for the same rounds (alone); of one that the tier's devices train by themselves (apart); and of HeteroFL,
FjORD and FedRolex with the widest model whose int8 weights take no more bytes. Each run is a folder under runs/fleet/;
one that is complete is not run again and one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fedprune.experiment import Experiment, load
from simulations.benchmarks._fleet_run import WIDTHS
from simulations.benchmarks._report import RESULTS, Figure, write

_QUICK = Path("simulations/benchmarks/fleet_quick.toml")
Found = dict[tuple[str, str], list[dict[str, float]]]
"""(kind without its tier, tier) -> what each seed gave."""


def main() -> None:
    """Run what is missing, then print, draw and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiment", type=Path, nargs="?", default=_QUICK)
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each in one process")
    parser.add_argument("--quick", action="store_true", help="the digits, two rounds, one seed")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the experiment"
    )
    options = parser.parse_args()
    if options.quick:
        options.experiment, options.seeds = _QUICK, 1
    experiment = load(options.experiment, options.set)
    name = options.experiment.stem
    jobs = [(kind, seed) for seed in range(options.seeds) for kind in _kinds(experiment)]

    def run(job: tuple[str, int]) -> None:
        kind, seed = job
        folder = Path("runs/fleet") / name / f"{kind}-{seed}"
        if (folder / "result.json").exists():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "simulations.benchmarks._fleet_run", str(options.experiment), kind, str(seed)]
        with folder.with_suffix(".log").open("a") as log:
            subprocess.run([*command, str(folder), options.data_dir, *options.set], stdout=log, stderr=log, check=True)
        print(f"{kind}, seed {seed}: {folder}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, jobs))
    found: Found = {}
    for kind, seed in jobs:
        result = json.loads((Path("runs/fleet") / name / f"{kind}-{seed}" / "result.json").read_text())
        for tier, values in result["tiers"].items():
            found.setdefault((kind.partition("-")[0], tier), []).append(values)
    _show(name, experiment, found)
    _draw(RESULTS / f"{name}.svg", experiment, found)


def _kinds(experiment: Experiment) -> list[str]:
    """What is run with each seed, the experiment itself first."""
    trained = [tier for tier, own in experiment.fleet.items() if own.trains]
    return ["joint", *(f"alone-{tier}" for tier in trained), *(f"apart-{tier}" for tier in trained), *WIDTHS]


_COLUMNS = {"joint": "one run", "alone": "alone, whole fleet", "apart": "apart, own devices",
            "heterofl": "HeteroFL", "fjord": "FjORD", "fedrolex": "FedRolex"}  # fmt: skip


def _show(name: str, experiment: Experiment, found: Found) -> None:
    table = Table("tier", "density", "width", *_COLUMNS.values(), title=f"{name}: accuracy, % (worst device)")
    figures: dict[str, Figure] = {}
    for tier in experiment.fleet:
        if ("alone", tier) not in found:
            continue
        sizes = [f"{found[kind, tier][0]['size']:.4g}" for kind in ("joint", "heterofl")]
        table.add_row(tier, *sizes, *(_cell(found[kind, tier]) for kind in _COLUMNS))
        mean = {kind: 100 * statistics.mean(_values(found[kind, tier])) for kind in _COLUMNS}
        spread = 100 * statistics.stdev(_values(found["joint", tier])) if len(found["joint", tier]) > 1 else 0.0
        against = {_COLUMNS[kind]: mean[kind] for kind in list(_COLUMNS)[1:]}
        against["standard deviation over seeds"] = spread
        figures[f"{name}_{tier}"] = Figure(mean["joint"], "%", "higher", mean["alone"] - 2, against)
        worst = {_COLUMNS[kind]: _worst(found[kind, tier]) for kind in list(_COLUMNS)[1:]}
        figures[f"{name}_{tier}_worst_device"] = Figure(_worst(found["joint", tier]), "%", "higher", against=worst)
    Console(width=140).print(table)
    write(name, figures, f"python -m simulations.benchmarks.fleet simulations/{name}.toml", ["torch", "flwr"])


def _draw(path: Path, experiment: Experiment, found: Found) -> None:
    """A group of bars for each tier, one bar a way to train; lines show one standard deviation either way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tiers = [tier for tier in experiment.fleet if ("alone", tier) in found]
    colours = ("#2563eb", "#0f172a", "#94a3b8", "#ea580c", "#16a34a", "#9333ea")
    with matplotlib.rc_context({"svg.hashsalt": "fedprune", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(7.2, 3.4), layout="constrained")
        for index, (kind, label) in enumerate(_COLUMNS.items()):
            values = [[100 * value for value in _values(found[kind, tier])] for tier in tiers]
            places = [place + (index - 2.5) * 0.14 for place in range(len(tiers))]
            spread = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
            means = [statistics.mean(each) for each in values]
            axes.bar(places, means, 0.13, yerr=spread, color=colours[index], label=label, ecolor="#475569")
        axes.set_xticks(range(len(tiers)), [f"{t}, density {found['joint', t][0]['size']:.4g}" for t in tiers])
        axes.set_ylabel("test accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.25))
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _cell(seeds: list[dict[str, float]]) -> str:
    values = _values(seeds)
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread} ({_worst(seeds):.1f})"


def _values(seeds: list[dict[str, float]]) -> list[float]:
    return [seed["accuracy"] for seed in seeds]


def _worst(seeds: list[dict[str, float]]) -> float:
    return 100 * statistics.mean(seed["worst"] for seed in seeds)


if __name__ == "__main__":
    main()
