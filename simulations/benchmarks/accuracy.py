"""Accuracy of methods on one experiment: several seeds, the same data, first weights and training for every method.

    python -m simulations.benchmarks.accuracy simulations/cifar10.toml --data-dir DATA
    python -m simulations.benchmarks.accuracy --quick

Each run is a folder under runs/accuracy/; one that is complete is not run again and one that was stopped goes on, so a
long comparison can be cut into pieces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from simulations.benchmarks._report import RESULTS, Figure, write

_QUICK = Path("simulations/digits.toml")


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiment", type=Path, nargs="?", default=_QUICK)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each in one process")
    parser.add_argument("--methods", nargs="+", default=["fedtiny", "random_erk", "fedavg"])
    parser.add_argument("--quick", action="store_true", help="the digits, three rounds, two seeds")
    options = parser.parse_args()
    if options.quick:
        options.experiment, options.seeds = _QUICK, 2
    table = tomllib.loads(options.experiment.read_text())
    name = options.experiment.stem + ("_quick" if options.quick else "")
    runs = {
        (method, seed): Path("runs/accuracy") / name / f"{method}-{seed}"
        for method in options.methods
        for seed in range(options.seeds)
    }

    def run(job: tuple[tuple[str, int], Path]) -> None:
        (method, seed), folder = job
        if (folder / "result.json").exists():
            return
        given = _parameters(table["method"], method)
        command = [sys.executable, "-m", "fedprune.cli", "simulate", str(options.experiment), "--out", str(folder),
                   "--resume", "--workers", "1", "--seed", str(seed), "--set", f"method={given}"]  # fmt: skip
        command += ["--data-dir", options.data_dir] if options.data_dir else []
        command += ["--set", "rounds=3", "--set", "pretraining.epochs=3"] if options.quick else []
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".log").open("a") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)
        print(f"{method}, seed {seed}: {folder}", flush=True)

    # seed by seed, so that a comparison cut short is still a comparison
    jobs = sorted(runs.items(), key=lambda job: job[0][1])
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, jobs))
    RESULTS.mkdir(exist_ok=True)
    _draw(RESULTS / f"accuracy_{name}.svg", options.methods, runs)
    _show(
        name, options.methods, {key: json.loads((folder / "result.json").read_text()) for key, folder in runs.items()}
    )


def _parameters(own: dict[str, object], method: str) -> str:
    """The method's table: the experiment's own, or the named one at the same density."""
    if method == own["name"]:
        given = own
    else:
        given = {"name": method, **({"density": own["density"]} if method != "fedavg" else {})}
    return "{" + ", ".join(f"{key}={json.dumps(value)}" for key, value in given.items()) + "}"


def _show(name: str, methods: list[str], results: dict[tuple[str, int], dict[str, object]]) -> None:
    console = Console()
    table = Table("method", "density", "accuracy, %", "int8, %", "KB, gzip", "MB up", "MB down", title=name)
    figures: dict[str, Figure] = {}
    dense = _values(results, "fedavg", "accuracy_float") if "fedavg" in methods else []
    for method in methods:
        found = [result for (which, _), result in results.items() if which == method]
        accuracy = _values(results, method, "accuracy_float")
        int8 = _values(results, method, "accuracy_int8")
        first = found[0]
        sizes = first["bytes"]
        assert isinstance(sizes, dict)
        table.add_row(
            method, f"{first['density']:.3f}", _spread(accuracy), _spread(int8),
            f"{sizes['int8 .tflite, compacted, gzip'] / 1e3:.1f}",
            f"{float(str(first['bytes_up'])) / 1e6:.1f}", f"{float(str(first['bytes_down'])) / 1e6:.1f}",
        )  # fmt: skip
        against = {"fedavg, dense": 100 * statistics.mean(dense)} if dense and method != "fedavg" else {}
        for key, values in ((f"{name}_{method}", accuracy), (f"{name}_{method}_int8", int8)):
            spread = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
            figures[key] = Figure(
                100 * statistics.mean(values),
                "%",
                "higher",
                against={**against, "standard deviation over seeds": spread},
            )
    console.print(table)
    write(f"accuracy_{name}", figures, f"python -m simulations.benchmarks.accuracy simulations/{name}.toml")


def _draw(path: Path, methods: list[str], runs: dict[tuple[str, int], Path]) -> None:
    """Test accuracy by round: each method's mean over seeds, and one standard deviation either way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "fedprune", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
        for method, colour in zip(methods, ("#2563eb", "#ea580c", "#64748b", "#16a34a", "#9333ea"), strict=False):
            curves = []
            for (which, _), folder in runs.items():
                if which == method:
                    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
                    curves.append({row["round"]: 100 * row["accuracy"] for row in rows if row["phase"] == "evaluate"})
            rounds = sorted(curves[0])
            mean = [statistics.mean(curve[r] for curve in curves) for r in rounds]
            spread = [statistics.stdev([curve[r] for curve in curves]) if len(curves) > 1 else 0.0 for r in rounds]
            axes.errorbar(rounds, mean, spread, marker="o", markersize=4, capsize=3, color=colour, label=method)
        axes.set_xlabel("round")
        axes.set_ylabel("test accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _values(results: dict[tuple[str, int], dict[str, object]], method: str, key: str) -> list[float]:
    return [float(str(result[key])) for (which, _), result in results.items() if which == method]


def _spread(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    main()
