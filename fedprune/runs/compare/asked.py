"""A comparison as one checked value, read from one TOML file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fedprune.experiment import ExperimentError, toml_files
from fedprune.experiment.errors import explain
from fedprune.experiment.toml_files import TomlError

Density = Annotated[float, Meta(gt=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
Seed = Annotated[int, Meta(ge=0)]
_Table = TypeVar("_Table")


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same effort for every method: learning rates, of which devices' development parts choose."""

    learning_rate: tuple[Rate, ...] = ()
    """Rates of training; its last one, where the experiment has one, keeps its share of it."""
    densities: tuple[Density, ...] = ()
    """At which they are tried, each cell taking what the nearest one chose; those of the table where none is named."""
    seeds: Count = 3
    """How many runs each is tried in."""
    first_seed: Seed = 1000
    """Of these runs, none of the table's."""


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
    trials: Seed = 0
    """Seeds in which each learning rate is tried; 0 is the tuning's."""
    target: float = 0.0
    """A value of the metric, of which the table says the round that reaches it first: 0.9 of accuracy; 0 is none."""


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


_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "": Comparison,
    "experiments[...]": Asked,
    "tuning": Tuning,
    "quick": Quick,
}


def read(
    file: Path,
    *,
    quick: bool = False,
    seeds: int | None = None,
    only: Collection[str] = (),
    experiments: Collection[str] = (),
) -> Comparison:
    """The comparison in a TOML file, or what these options leave of it.

    ExperimentError, in one line, names the file, the key and what would be right.
    """
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
    methods = _chosen(file, "--only", only, asked.methods)
    tables = {
        name: msgspec.structs.replace(each, methods=tuple(one for one in each.methods if one in methods))
        for name, each in _chosen(file, "--experiments", experiments, asked.experiments).items()
        if not each.methods or methods.keys() & set(each.methods)
    }
    if not tables:
        names = ", ".join(experiments or asked.experiments)
        raise ExperimentError(f"{file}: --only: none of {', '.join(methods)} is a method of {names}")
    return msgspec.structs.replace(asked, methods=methods, experiments=tables)


def _chosen(file: Path, option: str, names: Collection[str], of: Mapping[str, _Table]) -> dict[str, _Table]:
    """Those of a table that an option names; all where it names none."""
    if unknown := [name for name in names if name not in of]:
        raise ExperimentError(f"{file}: {option}: {unknown[0]!r} is none of {', '.join(of)}")
    return {name: table for name, table in of.items() if not names or name in names}


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
    repeated: list[tuple[str, Sequence[Any]]] = [
        ("densities", asked.densities),
        ("tuning.densities", asked.tuning.densities),
        ("tuning.learning_rate", asked.tuning.learning_rate),
        ("quick.densities", asked.quick.densities),
        *((f"experiments.{name}.densities", each.densities) for name, each in asked.experiments.items()),
        *((f"experiments.{name}.methods", each.methods) for name, each in asked.experiments.items()),
    ]
    for key, values in repeated:
        if twice := [value for index, value in enumerate(values) if value in values[:index]]:
            raise ExperimentError(f"{file}: {key}: {twice[0]} is there twice; name it once")
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
