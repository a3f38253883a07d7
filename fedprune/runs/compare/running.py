"""Runs the cells of a comparison: on this machine's cores or over a Ray cluster, those that are not done yet."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from math import inf, log
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from fedprune import experiment as _experiment
from fedprune import own_code
from fedprune.experiment import ExperimentError
from fedprune.federated.link.local_grid import end_with_parent
from fedprune.federated.rounds.asking import RunStopped
from fedprune.runs.compare import cell
from fedprune.runs.compare.asked import Comparison
from fedprune.runs.compare.cell import Work, late
from fedprune.runs.compare.cells import Cell, cells, experiment, folder_of, trials
from fedprune.runs.compare.store import Store
from fedprune.tasks import metric_in

Rates = Mapping[str, Mapping[str, Mapping[float, float]]]
"""Experiment -> method -> density -> learning rate."""

CELLS = "cells.jsonl"
"""Of a comparison's folder: what is complete."""

FAILED = "failed"
"""Key of a cell that could not be run, and why."""

Say = Callable[[str, int, int], None]
"""(what was run and what it came to, how many are done, of how many)."""


class Ran(NamedTuple):
    """All that a comparison came to."""

    rates: Rates
    """Those that development parts chose; empty where none was asked for."""
    cells: Mapping[Cell, Mapping[str, Any]]
    """In the order of the table; ``failed`` says why one could not be run."""


class Where(NamedTuple):
    """Where cells are run."""

    jobs: int
    """Processes on this machine."""
    ray: str = ""
    """Address of a Ray cluster to run them on instead."""


def run(
    file: Path, asked: Comparison, out: Path, data_dir: str | None, where: Where, say: Say, known: Path | None = None
) -> Ran:
    """Run what is missing of a comparison. ExperimentError, before anything is run, where a cell cannot be.

    ``known`` is the file of cells that are complete, read and added to: by default one in ``out``. A cell that fails
    keeps none of the others from running.
    """
    store = Store(known or out / CELLS)
    try:
        tried, wanted = list(trials(asked)), list(cells(asked))
    except ExperimentError as error:
        raise ExperimentError(f"{file}: {error}") from error
    for each in {(one.experiment, one.method, one.density): one for one in [*tried, *wanted]}.values():
        experiment(file, asked, each)
    store.open()
    total = len(tried) + len(wanted)

    def work(each: Cell, rate: float = 0.0) -> Work:
        settings = experiment(file, asked, each, rate)
        if each.rate:
            settings = replace(settings, evaluate_on="development")
        whole = not each.rate and each.seed == 0
        text = _experiment.to_json(settings)
        return Work(text, str(folder_of(out, each).absolute()), f"{file}, {each.name()}", data_dir, whole)

    found = _all([(each, work(each)) for each in tried], store, where, say, 0, total)
    rates = chosen(found)
    works = [(each, work(each, nearest(rates, each))) for each in wanted]
    return Ran(rates, _all(works, store, where, say, len(tried), total))


def chosen(found: Mapping[Cell, Mapping[str, Any]]) -> Rates:
    """The learning rates that do best late in their runs on development parts, over seeds; the lower of equals.

    One at which a run fails comes after all at which none does.
    """
    tried: dict[tuple[str, str, float], dict[float, list[float]]] = {}
    for each, told in found.items():
        key = each.experiment, each.method, each.density
        sign = 1 if metric_in(told).higher else -1
        tried.setdefault(key, {}).setdefault(each.rate, []).append(sign * late(told) if told.get("curve") else -inf)
    rates: dict[str, dict[str, dict[float, float]]] = {}
    for (name, method, density), values in tried.items():
        value, rate = max((statistics.mean(several), -rate) for rate, several in values.items())
        if value > -inf:
            rates.setdefault(name, {}).setdefault(method, {})[density] = -rate
    return rates


def nearest(rates: Rates, cell: Cell) -> float:
    """What was chosen at the density nearest to a cell's, by their ratio; 0 where nothing was."""
    known = rates.get(cell.experiment, {}).get(cell.method, {})
    return known[min(known, key=lambda density: abs(log(density / cell.density)))] if known else 0.0


def _all(
    works: Sequence[tuple[Cell, Work]], store: Store, where: Where, say: Say, before: int, total: int
) -> dict[Cell, Mapping[str, Any]]:
    found = {each: told for each, work in works if (told := store.found(work)) is not None}
    missing = {each: work for each, work in works if each not in found}
    run_them = _over_ray if where.ray and missing else _here
    for each, told in run_them(list(missing.items()), where):
        failed = told.get(FAILED)
        found[each] = told if failed else store.add(each, missing[each], told)
        *_, (_, value) = told.get("curve") or [[0, None]]
        came = f"failed: {failed}" if failed else metric_in(told).text(value)
        say(f"{each.name()}: {came}", before + len(found), total)
    return {each: found[each] for each, _ in works}


def _here(works: Sequence[tuple[Cell, Work]], where: Where) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    waiting = dict(works)
    while waiting:
        pool, jobs = _pool(where.jobs), dict(waiting)
        try:
            futures = {pool.submit(ran, work): each for each, work in jobs.items()}
            for future in as_completed(futures):
                each = futures[future]
                told = future.result()
                del waiting[each]
                yield each, told
        except BrokenProcessPool:
            yield from _one_by_one(waiting)
        finally:
            for process in list((getattr(pool, "_processes", None) or {}).values()) if waiting else ():
                process.terminate()  # so that Ctrl-C does not wait for cells of minutes
            pool.shutdown(cancel_futures=True)


def _one_by_one(waiting: dict[Cell, Work]) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """The next ones alone, until one is found whose process dies: nobody said which of several it was."""
    for each, work in list(waiting.items()):
        with _pool(1) as alone:
            try:
                told = alone.submit(ran, work).result()
            except BrokenProcessPool:
                told = {FAILED: "its process died"}
        del waiting[each]
        yield each, told
        if FAILED in told:
            return


def _pool(jobs: int) -> ProcessPoolExecutor:
    # no max_tasks_per_child: with it, Python 3.11's pool may wait for ever once its processes have ended (gh-115634)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _started)


def _started() -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()


def ran(work: Work) -> dict[str, Any]:
    """A cell, or why it could not be run."""
    try:
        return cell.run(work)
    except (ExperimentError, RunStopped) as error:
        return {FAILED: str(error)}
    except Exception as error:  # whatever it is, the other cells can be run
        return {FAILED: own_code.raised(error)}


def _over_ray(works: Sequence[tuple[Cell, Work]], where: Where) -> Iterator[tuple[Cell, Mapping[str, Any]]]:
    """Cells as tasks of a cluster, a core each; every node has the data at the same path, this one gets the results."""
    import ray

    from fedprune.federated.link.engines import cluster

    with cluster(where.ray, {}):
        task = ray.remote(num_cpus=1)(ran)
        waiting = {task.remote(work): each for each, work in works}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            each = waiting.pop(ready)
            try:
                told = ray.get(ready)
            except ray.exceptions.RayError as error:
                told = {FAILED: str(error).strip().splitlines()[0]}
            yield each, told
