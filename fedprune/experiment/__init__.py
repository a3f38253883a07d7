"""A simulation or a fleet's run as one typed, checked value, read from one TOML file."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fedprune.experiment import toml_files
from fedprune.experiment.contradictions import contradictions
from fedprune.experiment.errors import explain, one_line, quoted
from fedprune.experiment.own_data import targets_of
from fedprune.experiment.sections import (
    Amount,
    Data,
    Export,
    Natural,
    Positive,
    Pretraining,
    Privacy,
    Seed,
    Stretch,
    Tier,
    Training,
)  # fmt: skip
from fedprune.experiment.toml_files import TomlError

__all__ = [
    "Data", "Experiment", "ExperimentError", "Export", "Pretraining", "Privacy", "Stretch", "Tier", "Training",
    "from_json", "for_devices", "load", "parse", "to_json", "to_toml", "training_devices",
]  # fmt: skip


class ExperimentError(ValueError):
    """An experiment that cannot be run. Its message is one line: the file, the key, and what would be right."""

    def __init__(self, message: str) -> None:
        """``message``; what it quotes of a foreign text stays within the line."""
        super().__init__(one_line(message))


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides a run; with the data and the versions, its result follows."""

    data: Data
    model: str
    """A shipped model, or a dotted name such as my_package.nets:tiny."""
    method: dict[str, Any]
    """``name`` and the method's own parameters."""
    rounds: Natural
    """0 prunes the model that there is, and trains nothing after it."""
    task: str = "classification"
    """What the model is for: classification, regression, multi_label, next_token, segmentation, depth, or a dotted name
    of one's own function that returns a `fedprune.tasks.Task`."""
    name: str = ""
    seed: Seed = 0
    evaluate_every: Positive = 1
    evaluate_on: Literal["test", "development"] = "test"
    """The part of each device's examples that judges models round by round; settings are chosen on the second."""
    prune_first: bool | None = None
    prune_last: bool | None = None
    """Whether the first and the last layer are pruned; where nothing is said they are dense, but where they hold most
    of the weights."""
    prune_depthwise: bool = False
    """Depthwise layers hold few weights and lose much by pruning, so they stay dense by default."""
    least_replies: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Part of the asked devices that must answer well, or the round fails and the run stops, saved; and of all
    devices, the part that must be connected."""
    retries: Natural = 2
    """How often those that did not are asked again first."""
    deadline_s: Amount = 0.0
    """How long a device may take to answer a message, twice as long where it was late and is asked again.

    0 is no limit in a simulation; over a real link half an hour at first, later four times what the slowest took.
    """
    training: Training = Training()
    pretraining: Pretraining = Pretraining()
    export: Export = Export()
    privacy: Privacy = Privacy()
    fleet: dict[str, Tier] = {}
    """Tiers of unequal devices, by name: the first devices are of the first tier, and so on. Empty: all are equal."""


def load(path: Path, overrides: Sequence[str] = (), *, seed: int | None = None) -> Experiment:
    """Read an experiment from a TOML file, with ``key.subkey=value`` overrides. ExperimentError says what is wrong."""
    try:
        table = toml_files.read(path)
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from error
    except TomlError as error:
        raise ExperimentError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        _override(table, override)
    if seed is not None:
        table["seed"] = seed
    table.setdefault("name", path.stem)
    return _located(parse(table, str(path)))


def _located(experiment: Experiment) -> Experiment:
    """With whole paths: whoever resumes the run may stand elsewhere."""
    paths = {key: getattr(experiment.pretraining, key) for key in ("weights", "masks")}
    if whole := {key: _whole(path) for key, path in paths.items() if path}:
        pretraining = msgspec.structs.replace(experiment.pretraining, **whole)
        experiment = msgspec.structs.replace(experiment, pretraining=pretraining)
    if public_dir := experiment.data.public_dir:
        data = msgspec.structs.replace(experiment.data, public_dir=_whole(public_dir))
        experiment = msgspec.structs.replace(experiment, data=data)
    return experiment


def _whole(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def parse(table: Mapping[str, Any], source: str) -> Experiment:
    """An experiment from plain tables; ``source`` names them in errors."""
    try:
        fleet = _fleet(table.get("fleet", {}), source)
        experiment = msgspec.convert({**_rated(table), "fleet": {}}, Experiment)
    except msgspec.ValidationError as error:
        raise ExperimentError(f"{source}: {explain(str(error), _TABLES)}") from error
    except UnicodeEncodeError as error:
        raise ExperimentError(f"{source}: a key or a text is not UTF-8: {quoted(error.object)}") from error
    experiment = msgspec.structs.replace(experiment, fleet=fleet, data=_with_devices(experiment.data, fleet))
    # as labels are read, whatever system they were written on
    names = experiment.data.classes or targets_of(experiment.data)
    classes = tuple(unicodedata.normalize("NFC", name) for name in names)
    experiment = msgspec.structs.replace(experiment, data=msgspec.structs.replace(experiment.data, classes=classes))
    if experiment.data.partition == "own" and not experiment.data.public_dir and experiment.export.ranges == "public":
        # the server has no example of its own to measure on
        measured = msgspec.structs.replace(experiment.export, ranges="devices")
        experiment = msgspec.structs.replace(experiment, export=measured)
    for key, problem in contradictions(experiment, training_devices(fleet)):
        raise ExperimentError(f"{source}: {key}: {problem}")
    return experiment


_ADAMS_RATE = 0.001


def _rated(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table with a learning rate fit for Adam, where it asks for that and says none: SGD's is far too large."""
    training, pretraining = table.get("training"), table.get("pretraining", {})
    if not isinstance(training, Mapping) or training.get("optimiser") != "adam" or not isinstance(pretraining, Mapping):
        return table
    rate = {"learning_rate": _ADAMS_RATE}
    return {**table, "training": {**rate, **training}, "pretraining": {**rate, **pretraining}}


def _fleet(tables: Any, source: str) -> dict[str, Tier]:
    if not isinstance(tables, Mapping):
        raise ExperimentError(f"{source}: fleet: expected a table of tiers, such as [fleet.pi]")
    fleet = {}
    for name, table in tables.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
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
    size = float(given[1]) * _UNITS[given[2]] if given and given[2] in _UNITS else math.inf
    if size >= 2**63:
        raise ExperimentError(f'{where}: {value!r} is no size; write bytes as a number, or e.g. "128 MiB"')
    return round(size)


def _with_devices(data: Data, fleet: Mapping[str, Tier]) -> Data:
    """``data``, with as many devices as the fleet has that train, where it says no number itself."""
    if data.devices or not fleet:
        return data
    return msgspec.structs.replace(data, devices=training_devices(fleet))


def training_devices(fleet: Mapping[str, Tier]) -> int:
    """How many devices of a fleet train."""
    return sum(tier.devices for tier in fleet.values() if tier.trains)


def to_json(experiment: Experiment) -> str:
    """A compact, stable text of an experiment, for the link and for a run's folder.

    Every message carries it, so that it says what differs from the defaults, and the seed.
    """
    # the order of tiers says which devices are of which
    return msgspec.json.encode({"seed": experiment.seed, **_said(experiment)}).decode()


def _said(of: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(of):
        value = getattr(of, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if value != default:
            found[field.name] = _said(value) if isinstance(value, msgspec.Struct) else msgspec.to_builtins(value)
    return found


def for_devices(experiment: Experiment) -> Experiment:
    """The experiment as its messages carry it: without what the server alone does before them."""
    # that the server has examples matters to what is asked of devices, where they lie does not
    data = msgspec.structs.replace(experiment.data, public_dir="public" if experiment.data.public_dir else "")
    return msgspec.structs.replace(experiment, data=data, pretraining=Pretraining())


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
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items() if each is not None) + " }"
    if isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    # JSON's values are TOML's, but for surrogate pairs and a bare DEL
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_json(text: str | bytes, source: str = "experiment") -> Experiment:
    """The experiment of ``to_json``, checked as one from TOML is: it may come from anybody's folder, or over a link.

    ExperimentError, which begins with ``source``, says what is wrong.
    """
    try:
        table = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExperimentError(f"{source}: not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise ExperimentError(f"{source}: expected a table of settings")
    return parse(table, source)


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ExperimentError(f"--set {override}: expected key=value, for example training.epochs=2")
    try:
        value = toml_files.parse(f"value = {text}")["value"]
    except TomlError:
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
    "privacy": Privacy, "training.schedule[]": Stretch,
}  # fmt: skip
