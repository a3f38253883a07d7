"""Benchmark of simulation: seconds a round of training over fedprune's local grid, Flower on Ray, and a plain loop."""

import argparse
import functools
import importlib.util
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
from flwr.serverapp import Grid
from rich.console import Console
from rich.table import Table

from fedprune import models, training
from fedprune.data.loading import load_dataset
from fedprune.experiment import Experiment
from fedprune.federated.link import engines
from fedprune.federated.link.asking import Link
from fedprune.federated.link.engines import Engine
from fedprune.federated.link.local_grid import cores
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.train import train
from fedprune.runs.setting import prepare
from fedprune.training import one_thread
from fedprune.types import Params
from simulations.benchmarks._memory import Peak
from simulations.benchmarks._plain_loop import Round, plain
from simulations.benchmarks._report import Figure, write
from simulations.benchmarks._workloads import Workload, workloads

TOLERANCE = 1e-6
"""Of the plain loop's weights; between engines every bit counts."""
MEMORY_SECONDS = 1.0
"""Rounds go on for so long, untimed, while memory is sampled."""

Way = Callable[[Experiment, Callable[[Round], None]], None]
"""Sets a federation up, hands the function that trains one round of it, and takes it down again."""


class Measured(NamedTuple):
    seconds: float
    """A round: the best of all but the first."""
    startup: float
    """From an empty process to the end of the first round, less the seconds of a round."""
    peak_mb: float
    """Physical memory of the process and its children during rounds; what they share counts once."""
    params: Params
    """Weights after the last timed round."""


def over_grid(experiment: Experiment, drive: Callable[[Round], None], *, engine: Engine) -> None:
    """The train phase over an engine's grid: what `fedprune simulate` runs, less evaluation and checkpoints."""

    def serve(grid: Grid) -> None:
        link, method = Link(grid, experiment), prepare(experiment, "benchmark").method
        fleet = link.meet(experiment.data.devices, State(0, {}))

        def one(state: State, round: int) -> State:
            step = link.ask(train(experiment, round, method), state, fleet, dict.fromkeys(fleet.trainers, Job()), round)
            if step.row["faults"]:
                raise AssertionError(f"round {round}: {step.row['faults']}")
            after: State = step.answer
            return after

        drive(one)

    engine(experiment.data.devices, None, serve)


def ways() -> dict[str, Way]:
    """Every way to run a federation on this machine; those of several processes have one a core."""
    many = cores()
    made: dict[str, Way] = {
        "plain, 1": functools.partial(plain, processes=1),
        f"plain, {many}": functools.partial(plain, processes=many),
        "local, 1": functools.partial(over_grid, engine=functools.partial(engines.local, workers=1)),
        f"local, {many}": functools.partial(over_grid, engine=functools.partial(engines.local, workers=many)),
    }
    if importlib.util.find_spec("ray") is not None:
        made[f"ray, {many}"] = functools.partial(over_grid, engine=engines.ray)
    return made


def initial(experiment: Experiment) -> Params:
    """The seed's weights; from here on this process computes with one thread, as devices do."""
    dataset = load_dataset(experiment.data.name)
    one_thread()
    what = experiment.model, dataset.input_shape, len(dataset.classes)
    return training.state_of(models.build(*what, experiment.seed))


def run(workload: Workload, way: str, began: float) -> Measured:
    """One way through one workload, in this process, which was asked for at the monotonic time ``began``."""
    logging.disable(logging.ERROR)
    experiment, ends, results = workload.experiment, [], []
    state = State(0, initial(experiment))

    def drive(one: Round) -> None:
        after = state
        for round in range(1, experiment.rounds + 1):
            after = one(after, round)
            ends.append(time.monotonic())
        with Peak() as peak:
            stop = time.monotonic() + MEMORY_SECONDS
            while time.monotonic() < stop:
                one(after, experiment.rounds)
        seconds = float(np.diff(ends).min())
        results.append(Measured(seconds, ends[0] - began - seconds, peak.mb, after.params))

    ways()[way](experiment, drive)
    return results[0]


def measure(workload: Workload, names: Iterable[str]) -> dict[str, Measured]:
    """These ways through one workload, each in a fresh process. AssertionError where their weights differ."""
    results = {}
    for way in names:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            results[way] = fresh.submit(run, workload, way, time.monotonic()).result()
    reference = results["local, 1"].params
    for way, result in results.items():
        for name, value in result.params.items():
            if way.startswith("plain"):
                same = np.allclose(value, reference[name], rtol=0, atol=TOLERANCE)
            else:
                same = value.tobytes() == reference[name].tobytes()
            if not same:
                away = np.abs(value - reference[name]).max()
                raise AssertionError(f"{workload.title}: {way} ends with another {name}, {away:g} away")
    return results


def over_floor(results: Mapping[str, Measured]) -> dict[str, float]:
    """Way -> its seconds over those of the plain loop with as many processes, where that was measured."""
    floors = {way: "plain, " + way.rpartition(" ")[2] for way in results}
    return {way: got.seconds / results[floors[way]].seconds for way, got in results.items() if floors[way] in results}


def table(title: str, results: Mapping[str, Measured]) -> Table:
    shown = Table(title=f"{title}; the same weights at the end")
    for column in ("engine, processes", "s a round", "over the plain loop", "s to start", "peak MB"):
        shown.add_column(column, justify="left" if column.startswith("engine") else "right")
    over = over_floor(results)
    for way, got in results.items():
        ratio = f"×{over[way]:.2f}" if way in over else "–"
        shown.add_row(way, f"{got.seconds:.4f}", ratio, f"{got.startup:.1f}", f"{got.peak_mb:,.0f}")
    return shown


def figures(key: str, results: Mapping[str, Measured]) -> dict[str, Figure]:
    """Of one workload: ratios to the floor and to Ray at equal processes, seconds, megabytes."""
    own, ray = f"local, {cores()}", f"ray, {cores()}"
    over = {way: ratio for way, ratio in over_floor(results).items() if not way.startswith("plain")}
    made = {f"overhead_over_floor_{key}": Figure(over.pop("local, 1"), "× plain loop", "lower", 1.5, over)}
    if ray in results:
        ratio = results[ray].seconds / results[own].seconds
        made[f"local_over_ray_{key}"] = Figure(ratio, "× as fast as Ray", "higher", 1.0)
    for name, unit, column in (
        ("round_seconds", "s", "seconds"),
        ("startup_seconds", "s", "startup"),
        ("peak_resident_mb", "MB", "peak_mb"),
    ):
        values = {way: getattr(got, column) for way, got in results.items()}
        made[f"{name}_{key}"] = Figure(values.pop(own), unit, "lower", None, values)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest federation alone: within a minute")
    quick = parser.parse_args().quick
    console = Console()
    if importlib.util.find_spec("ray") is None:
        console.print("ray is not installed: measured without this peer")
    # The floor of several processes is no figure of its own, and its start takes longest after Ray's.
    names = [way for way in ways() if not (quick and way == f"plain, {cores()}" != "plain, 1")]
    made = {}
    for key, workload in workloads(quick).items():
        results = measure(workload, names)
        console.print(table(f"{key}: {workload.title}", results))
        made |= figures(key, results)
    command = "python -m simulations.benchmarks.simulation" + " --quick" * quick
    write("simulation", made, command, packages=["flwr", "ray", "torch"])
    console.print("written to results/simulation.json")


if __name__ == "__main__":
    main()
