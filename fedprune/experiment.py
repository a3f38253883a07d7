"""A simulation or a fleet's run as one typed, checked value, read from one TOML file."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fedprune.experiment_errors import explain

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # what torch takes
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=0, le=sys.float_info.max)]


class ExperimentError(ValueError):
    """An experiment that cannot be run. Its message is one line: the file, the key, and what would be right."""


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which examples there are and who holds them."""

    name: str
    """digits, cifar10, ucihar, keywords, or a dotted name of one's own loader."""
    partition: Literal["iid", "dirichlet", "shards", "natural"] = "dirichlet"
    devices: Natural = 0
    """How many devices share the data; a natural partition has one a person and wants 0 here."""
    alpha: Rate = 0.5
    """Concentration of the label Dirichlet; the smaller, the more skewed."""
    shards_per_device: Positive = 2
    examples: Natural = 0
    """Use a fixed stratified part of that many training examples; 0 uses all."""
    public: Share = 0.05
    """Part of the training data that the server holds, to pretrain and to calibrate with."""
    development: Share = 0.1
    """Part of a device's training data that it sets aside to choose candidates with."""
    test: Share = 0.2
    """Part of a device's data that it sets aside to test, where the data set has no test split of its own."""
    official_test: bool = False
    """Natural partitions alone: test on the people of the official test split, who then never train."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's local training."""

    epochs: Positive = 1
    batch: Positive = 64
    learning_rate: Rate = 0.05
    final_learning_rate: Rate | None = None
    """Learning rate of the last round, reached by a cosine; the same as the first where left out."""
    momentum: Share = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=sys.float_info.max)] = 5e-4
    augment: bool = True
    """Random crops and flips, for images that bear them."""
    participation: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Part of the devices that trains in a round."""
    inner_steps: Natural = 2
    """In a fleet of unequal tiers: after each step on its own part, a device takes one on each of so many smaller parts
    nested in it, with the same examples, so that all who hold a part train it; 0 leaves it to its own tier."""
    join: Literal["average", "scores", "votes"] = "average"
    """How a smaller part's masks are drawn again once the largest part's have changed: by magnitude of the averaged
    weights; by the devices' magnitudes, averaged; or by the devices' votes, each for the largest of its own weights."""
    grow_batch: Positive = 128
    """Examples behind the gradients of pruned weights that a device sends."""
    quantise_last: Natural = 0
    """In so many of the last rounds devices train with the rounding of the int8 file; 0 is never."""


class Pretraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server's dense training on its public examples."""

    epochs: Natural = 10
    batch: Positive = 32
    learning_rate: Rate = 0.05


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the int8 file comes to the ranges of its activations."""

    ranges: Literal["public", "devices"] = "public"
    """Whose examples they are measured on: the server's public ones, or those of the devices, which each send the least
    and the greatest value of every activation when training is over."""
    calibration: Literal["minmax", "percentile", "mse"] = "minmax"
    """All that was seen; without the outermost 0.01 % at each end; or the range of least squared rounding error."""


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of devices and what each of them may use; 0 is no limit. Sizes may be written as "128 MiB"."""

    devices: Positive
    trains: bool = True
    """False for devices that only run the model: they hold no data, and train nothing."""
    train_memory_bytes: Natural = 0
    """Resident memory of the device's whole process while it trains."""
    flash_bytes: Natural = 0
    """Room for the exported model."""
    sram_bytes: Natural = 0
    """Working memory (arena) of the exported model."""
    density: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """At most this; of a method that narrows the model, the fraction of channels."""


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides a run; with the data and the versions, its result follows."""

    data: Data
    model: str
    """A shipped model, or a dotted name such as my_package.nets:tiny."""
    method: dict[str, Any]
    """``name`` and the method's own parameters."""
    rounds: Positive
    name: str = ""
    seed: Seed = 0
    evaluate_every: Positive = 1
    prune_first: bool = False
    prune_last: bool = False
    prune_depthwise: bool = False
    """Depthwise layers hold few weights and lose much by pruning, so they stay dense by default."""
    least_replies: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Part of the asked devices that must answer well, or the round fails and the run stops, saved."""
    training: Training = Training()
    pretraining: Pretraining = Pretraining()
    export: Export = Export()
    fleet: dict[str, Tier] = {}
    """Tiers of unequal devices, by name: the first devices are of the first tier, and so on. Empty: all are equal."""


def load(path: Path, overrides: Sequence[str] = (), *, seed: int | None = None) -> Experiment:
    """Read an experiment from a TOML file, with ``key.subkey=value`` overrides. ExperimentError says what is wrong."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _override(table, override)
    if seed is not None:
        table["seed"] = seed
    table.setdefault("name", path.stem)
    return parse(table, str(path))


def parse(table: Mapping[str, Any], source: str) -> Experiment:
    """An experiment from plain tables; ``source`` names them in errors."""
    fleet = _fleet(table.get("fleet", {}), source)
    try:
        experiment = msgspec.convert({**table, "fleet": {}}, Experiment)
    except msgspec.ValidationError as error:
        raise ExperimentError(f"{source}: {explain(str(error), _TABLES)}") from error
    experiment = msgspec.structs.replace(experiment, fleet=fleet, data=_with_devices(experiment.data, fleet))
    for key, problem in _contradictions(experiment):
        raise ExperimentError(f"{source}: {key}: {problem}")
    return experiment


def _fleet(tables: Any, source: str) -> dict[str, Tier]:
    if not isinstance(tables, Mapping):
        raise ExperimentError(f"{source}: fleet: expected a table of tiers, such as [fleet.pi]")
    fleet = {}
    for name, table in tables.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
            raise ExperimentError(f"{source}: fleet: {name!r} names a folder; use letters, digits, '_' and '-'")
        if not isinstance(table, Mapping):
            raise ExperimentError(f"{source}: fleet.{name}: expected a table, such as {{ devices = 4 }}")
        plain = {key: _bytes(value, f"{source}: fleet.{name}.{key}") for key, value in table.items()}
        try:
            fleet[name] = msgspec.convert(plain, Tier)
        except msgspec.ValidationError as error:
            raise ExperimentError(f"{source}: fleet.{name}.{explain(str(error), {'': Tier})}") from error
    return fleet


_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _bytes(value: Any, where: str) -> Any:
    """A size in bytes; a text such as "128 MiB" is turned into a number, anything but a text is left to be checked."""
    if not isinstance(value, str) or not where.endswith("_bytes"):
        return value
    given = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", value.strip())
    if not given or given[2] not in _UNITS:
        raise ExperimentError(f'{where}: {value!r} is no size; write bytes as a number, or e.g. "128 MiB"')
    return round(float(given[1]) * _UNITS[given[2]])


def _with_devices(data: Data, fleet: Mapping[str, Tier]) -> Data:
    """``data``, with as many devices as the fleet has that train, where it says no number itself."""
    if data.devices or data.partition == "natural" or not fleet:
        return data
    return msgspec.structs.replace(data, devices=training_devices(fleet))


def training_devices(fleet: Mapping[str, Tier]) -> int:
    """How many devices of a fleet train."""
    return sum(tier.devices for tier in fleet.values() if tier.trains)


def to_json(experiment: Experiment) -> str:
    """A compact, stable text of an experiment, for the link and for a run's folder."""
    table = msgspec.to_builtins(experiment)  # the order of tiers says which devices are of which
    # every message carries this text: what asks for nothing is not said
    if experiment.export == Export():
        del table["export"]
    if not experiment.training.quantise_last:
        del table["training"]["quantise_last"]
    return msgspec.json.encode(table).decode()


def to_toml(experiment: Experiment) -> str:
    """All settings as a TOML text that gives this experiment again."""
    table = {key: value for key, value in msgspec.to_builtins(experiment).items() if value is not None}
    table |= {f"fleet.{name}": tier for name, tier in table.pop("fleet").items()}
    scalars = [f"{key} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, inner in table.items():
        if isinstance(inner, dict):
            scalars += ["", f"[{key}]", *(f"{k} = {_toml(v)}" for k, v in inner.items() if v is not None)]
    return "\n".join(scalars) + "\n"


def _toml(value: Any) -> str:
    # JSON's values are TOML's, but for surrogate pairs and a bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_json(text: str | bytes) -> Experiment:
    """The experiment of ``to_json``."""
    return msgspec.json.decode(text, type=Experiment)


def _contradictions(experiment: Experiment) -> list[tuple[str, str]]:
    data, problems = experiment.data, []
    if data.partition == "natural" and data.devices:
        problems.append(("data.devices", "a natural partition has one device a person; leave it out"))
    if data.partition != "natural" and not data.devices and not experiment.fleet:
        problems.append(("data.devices", f"missing; a {data.partition} partition wants a number of devices, 1 or more"))
    trained = training_devices(experiment.fleet)
    if experiment.fleet and not trained:
        problems.append(("fleet", "no tier trains; leave trains = false out of one at least"))
    elif experiment.fleet and data.devices and data.devices != trained:
        problems.append(("data.devices", f"{data.devices}, but the tiers that train have {trained}; leave it out"))
    if experiment.training.quantise_last > experiment.rounds:
        problems.append(("training.quantise_last", f"at most the {experiment.rounds} rounds there are; 0 is never"))
    if experiment.training.quantise_last and any(tier.train_memory_bytes for tier in experiment.fleet.values()):
        problems.append(
            ("training.quantise_last", "no plan counts what it takes; leave it out, or train_memory_bytes of all tiers")
        )
    if experiment.export.ranges == "devices" and experiment.export.calibration != "minmax":
        problems.append(("export.calibration", "devices send extremes alone; leave it out, or export.ranges"))
    if data.official_test and data.partition != "natural":
        problems.append(
            ("data.official_test", 'only for partition = "natural"; others test on the official split anyway')
        )
    if not isinstance(experiment.method.get("name"), str):
        problems.append(("method.name", "missing; expected the name of a method, such as fedtiny"))
    for key, value in experiment.method.items():
        # the link and the run's folder speak JSON and flat TOML
        if isinstance(value, dict) or msgspec.json.decode(msgspec.json.encode(value)) != value:
            problems.append((f"method.{key}", f"expected a finite number, a text, true or false, got {value}"))
    if not re.fullmatch(r"(?!\.+$)[\w.-]+", experiment.name):
        problems.append(("name", f"{experiment.name!r} names a folder; use letters, digits, '.', '_' and '-'"))
    return problems


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {override}: expected key=value, for example training.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, last = key.strip().split(".")
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ExperimentError(f"--set {override}: {part} is not a table")
        table = inner
    table[last] = value


_TABLES: dict[str, type[msgspec.Struct]] = {
    "": Experiment, "data": Data, "training": Training, "pretraining": Pretraining, "export": Export,
}  # fmt: skip
