"""A comparison as one checked value, read from one TOML file, and the cells that it asks for."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from inspect import Parameter
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from fedprune.experiment import Experiment, ExperimentError, load, toml_files
from fedprune.experiment.errors import explain
from fedprune.experiment.toml_files import TomlError
from fedprune.methods import MethodError, parameters, size_parameter

Density = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
Seed = Annotated[int, Meta(ge=0)]


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same effort for every method: learning rates, of which devices' development parts choose."""

    learning_rate: tuple[Rate, ...] = ()
    """Rates of training; its last one, where the experiment has one, keeps its share of it."""
    density: Density = 0.1
    """At which they are tried; a method without a density is tried as it is."""
    seed: Seed = 1000
    """Of the runs that are tried, none of the table's."""


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment in which methods are compared."""

    file: str
    """Beside the comparison's own file."""
    set: tuple[str, ...] = ()
    """Changes of its keys, as of ``fedprune simulate --set``."""
    seeds: int = 0
    """0 is the comparison's."""
    schedule: dict[str, int | float] = {}
    """Keys that every method gets that takes them, such as ``period`` and ``stop``."""
    methods: tuple[str, ...] = ()
    """Which; all where none is named."""
    densities: tuple[Density, ...] = ()
    """Which; the comparison's where none is named."""
    target: float = 0.0
    """An accuracy, of which the table says the round that reaches it first; 0 is none."""


class Quick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``--quick`` takes of it."""

    experiments: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    densities: tuple[Density, ...] = ()
    seeds: Count = 2
    set: tuple[str, ...] = ()
    learning_rate: tuple[Rate, ...] = ()


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is compared with what, and on what."""

    experiments: dict[str, Asked]
    methods: dict[str, dict[str, Any]]
    """Name in the table -> ``name`` of the method, where it is another, and the method's own keys."""
    densities: tuple[Density, ...]
    seeds: Count = 5
    against: str = ""
    """The method that all others are compared with, seed by seed; the first where none is named."""
    tuning: Tuning = Tuning()
    quick: Quick = Quick()


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


_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "": Comparison,
    "experiments[...]": Asked,
    "tuning": Tuning,
    "quick": Quick,
}


def read(file: Path, *, quick: bool = False, seeds: int | None = None, only: Collection[str] = ()) -> Comparison:
    """The comparison in a TOML file. ExperimentError, in one line, names the file, the key and what would be right."""
    try:
        asked = msgspec.convert(toml_files.read(file), Comparison)
    except OSError as error:
        raise ExperimentError(f"{file}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except TomlError as error:
        raise ExperimentError(f"{file}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ExperimentError(f"{file}: {explain(str(error), _TABLES)}") from error
    _known(file, asked)
    asked = _quickened(asked) if quick else asked
    if seeds is not None:
        chosen = {name: msgspec.structs.replace(each, seeds=0) for name, each in asked.experiments.items()}
        asked = msgspec.structs.replace(asked, seeds=seeds, experiments=chosen)
    if only:
        if unknown := [name for name in only if name not in asked.methods]:
            raise ExperimentError(f"{file}: --only: {unknown[0]!r} is none of {', '.join(asked.methods)}")
        kept = {name: table for name, table in asked.methods.items() if name in only}
        asked = msgspec.structs.replace(asked, methods=kept)
    return asked


def _known(file: Path, asked: Comparison) -> None:
    named: list[tuple[str, Sequence[str], Collection[str]]] = [
        ("against", [asked.against] if asked.against else [], asked.methods),
        ("quick.methods", asked.quick.methods, asked.methods),
        ("quick.experiments", asked.quick.experiments, asked.experiments),
        *((f"experiments.{name}.methods", each.methods, asked.methods) for name, each in asked.experiments.items()),
    ]
    for key, names, of in named:
        if unknown := [name for name in names if name not in of]:
            raise ExperimentError(f"{file}: {key}: {unknown[0]!r} is none of {', '.join(of)}")
    for key, tables in (("methods", asked.methods), ("experiments", asked.experiments), ("densities", asked.densities)):
        if not tables:
            raise ExperimentError(f"{file}: {key}: expected one at least")
    for name in [*asked.methods, *asked.experiments]:
        if not name.replace("_", "").isalnum():
            raise ExperimentError(f"{file}: {name!r}: expected letters, digits and underscores, since folders have it")


def _quickened(asked: Comparison) -> Comparison:
    quick = asked.quick
    experiments = {
        name: msgspec.structs.replace(each, seeds=0, set=(*each.set, *quick.set), methods=(), densities=())
        for name, each in asked.experiments.items()
        if name in (quick.experiments or asked.experiments)
    }
    methods = {name: table for name, table in asked.methods.items() if name in (quick.methods or asked.methods)}
    tuning = msgspec.structs.replace(asked.tuning, learning_rate=quick.learning_rate)
    return msgspec.structs.replace(
        asked, experiments=experiments, methods=methods, densities=quick.densities or asked.densities,
        seeds=quick.seeds, tuning=tuning,
    )  # fmt: skip


def reference(asked: Comparison) -> str:
    """The method that others are compared with."""
    return asked.against if asked.against in asked.methods else next(iter(asked.methods))


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
        for method in each.methods or asked.methods:
            density = asked.tuning.density if size_of(asked, method) is not None else 1.0
            for rate in asked.tuning.learning_rate:
                yield Cell(name, method, density, asked.tuning.seed, rate)


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
        return sized[0] if sized else next((key for key in ("keep",) if key in parameters(name)), None)
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
        known = ", ".join(sorted(takes.keys() - {"channels"})) or "no parameters"
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


def names(asked: Comparison) -> Sequence[str]:
    """Methods, in the order of the file."""
    return list(asked.methods)


def folder_of(out: Path, cell: Cell) -> Path:
    """Where a cell's run lies."""
    return out / "cells" / cell.name()


Told = Mapping[str, Any]
"""What is kept of a run: cell.json."""
