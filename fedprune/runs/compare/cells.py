"""The cells of a comparison: which runs it asks for, and what each of them is."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from inspect import Parameter
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from fedprune.experiment import Experiment, ExperimentError, load
from fedprune.methods import OF_THE_MODEL, MethodError, parameters, size_parameter
from fedprune.runs.compare.asked import Comparison


class Cell(NamedTuple):
    """One run of a table."""

    experiment: str
    method: str
    density: float
    """1 of a method that has none."""
    seed: int
    rate: float = 0.0
    """Of the tuning, where this is one of its runs; 0 is a run of the table."""

    def name(self) -> str:
        """Of its folder."""
        rate = f"-rate{self.rate:g}" if self.rate else ""
        return f"{self.experiment}-{self.method}-{self.density:g}-seed{self.seed}{rate}"


def cells(asked: Comparison) -> Iterator[Cell]:
    """All runs of the table, seed by seed, so that one that is cut short is a table of fewer seeds."""
    seeds = {name: each.seeds or asked.seeds for name, each in asked.experiments.items()}
    for seed in range(max(seeds.values())):
        for name, each in asked.experiments.items():
            for density in each.densities or asked.densities if seed < seeds[name] else ():
                for method in each.methods or asked.methods:
                    if size_of(asked, method) is not None:
                        yield Cell(name, method, density, seed)
                    elif density == (each.densities or asked.densities)[0]:
                        yield Cell(name, method, 1.0, seed)


def trials(asked: Comparison) -> Iterator[Cell]:
    """The runs by which learning rates are chosen."""
    for name, each in asked.experiments.items():
        tuning = asked.tuning
        for seed in range(tuning.first_seed, tuning.first_seed + (each.trials or tuning.seeds)):
            for method in each.methods or asked.methods:
                sized = size_of(asked, method) is not None
                for density in (tuning.densities or each.densities or asked.densities) if sized else (1.0,):
                    for rate in tuning.learning_rate:
                        yield Cell(name, method, density, seed, rate)


def size_of(asked: Comparison, method: str) -> str | None:
    """The key by which a method's model is smaller: ``density``, ``width`` or ``keep``; None where it is dense.

    ExperimentError for a method that there is not.
    """
    table = asked.methods[method]
    return _size(str(table.get("name", method)), f"methods.{method}")


@functools.cache
def _size(name: str, key: str) -> str | None:
    try:
        sized = size_parameter(name)
        if sized is None:
            return "keep" if "keep" in parameters(name) else None
        return sized[0]
    except MethodError as error:
        raise ExperimentError(f"{key}: {str(error).removeprefix('method.')}") from error


def experiment(file: Path, asked: Comparison, cell: Cell, rate: float = 0.0) -> Experiment:
    """The run of a cell; ``rate`` is the learning rate that the tuning chose, 0 the experiment's own.

    A method that narrows the model has the width that keeps about as many weights as the density. ExperimentError as
    for `fedprune.experiment.load`.
    """
    each, rate = asked.experiments[cell.experiment], cell.rate or rate
    table = {"name": cell.method, **asked.methods[cell.method]}
    takes = parameters(str(table["name"]))
    if unknown := [key for key in table if key not in takes and key != "name"]:
        known = ", ".join(sorted(takes.keys() - OF_THE_MODEL)) or "no parameters"
        raise ExperimentError(f"{file}: methods.{cell.method}.{unknown[0]}: unknown key; {table['name']} takes {known}")
    table = {**{key: _as(takes[key], value) for key, value in each.schedule.items() if key in takes}, **table}
    if (size := size_of(asked, cell.method)) is not None:
        table[size] = cell.density if size == "density" else round(sqrt(cell.density), 3)
    method = ", ".join(f"{key}={json.dumps(value)}" for key, value in table.items())
    path = file.parent / each.file
    changes = [*each.set, f"method={{{method}}}", f"name={cell.name()}"]
    if rate:
        own = load(path, each.set).training
        share = own.final_learning_rate / own.learning_rate if own.final_learning_rate is not None else None
        changes.append(f"training.learning_rate={rate}")
        changes += [f"training.final_learning_rate={share * rate}"] if share is not None else []
    return load(path, changes, seed=cell.seed)


def _as(parameter: Parameter, value: float) -> float:
    return int(value) if parameter.annotation in (int, "int") else value


def folder_of(out: Path, cell: Cell) -> Path:
    """Where a cell's run lies."""
    return out / "cells" / cell.name()
