"""What ``fedprune data check`` shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.data.own import Recorded, counts
from fedprune.data.parts import PARTS
from fedprune.experiment import Data, ExperimentError
from fedprune.experiment.errors import explain
from fedprune.experiment.own_data import Pictures, Sounds, Tables
from fedprune.experiment.toml_files import TomlError, parse

_TABLES: dict[str, type[msgspec.Struct]] = {"": Data, "sounds": Sounds, "pictures": Pictures, "tables": Tables}
_MODELS = {"sounds": "dscnn", "pictures": "resnet8", "tables": "har_cnn", "arrays": "har_cnn"}
"""Shipped models that inputs of a layout suit."""
_SMALL = 16  # pixels
_FEW = 10
"""Recordings, of which a fifth for testing is a matter of luck."""
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "development"}


def guessed(folder: Path, overrides: list[str]) -> Data:
    """What would fit a folder, with ``data.key=value`` overrides. DataError or ExperimentError say what is wrong."""
    from fedprune.data.own.guessing import guess

    said: dict[str, Any] = {"data": {}}
    for override in overrides:
        said = _merged(said, _table(override))
    tables = said["data"].get("tables")
    label = tables.get("label") if isinstance(tables, dict) else None
    fitting = msgspec.to_builtins(guess(folder, label if isinstance(label, str) else ""))
    known = {key: value for key, value in fitting.items() if value is not None}
    try:
        return msgspec.convert(_merged(known, said["data"]), Data)
    except msgspec.ValidationError as error:
        raise ExperimentError(f"--set: data.{explain(str(error), _TABLES)}") from error


def show(console: Console, folder: Path, settings: Data, recorded: Recorded, most: int | None, device: str) -> None:
    """Counts in the parts of a ``device`` of this name, sizes, and at most ``most`` lines on what cannot be used."""
    console.print(f"{folder}: {settings.name}, in parts as the device {device} has them", markup=False, soft_wrap=True)
    if len(recorded):
        console.print(_counts(settings, recorded, device))
        console.print("\n".join(_facts(settings, recorded)), markup=False, soft_wrap=True)
    lines = recorded.problems[:most]
    if recorded.problems:
        console.print("\nWhat cannot be used:")
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if more := len(recorded.problems) - len(lines):
        console.print(f"  and {more:,} more; --all shows them")


def fitting(settings: Data) -> str:
    """A whole experiment on such data, in TOML, to begin with."""
    small = settings.name == "pictures" and settings.pictures and max(settings.pictures.size) <= _SMALL
    model = "digits_cnn" if small else _MODELS[settings.name]
    method = '[method]\nname = "fedtiny"\ndensity = 0.2\npool = 3\nperiod = 2\nstop = 12'
    training = "[training]\nepochs = 2\nbatch = 16\nfinal_learning_rate = 0.005"
    return f'model = "{model}"\nrounds = 20\n\n{_table_of(settings)}\n\n{training}\n\n{method}'


def _table_of(settings: Data) -> str:
    lines = ["[data]", f"name = {_toml(settings.name)}", 'partition = "own"']
    inner = getattr(settings, settings.name, None)
    if isinstance(inner, msgspec.Struct):
        pairs = [f"{key} = {_toml(value)}" for key, value in msgspec.to_builtins(inner).items() if value]
        lines.append(f"{settings.name} = {{ {', '.join(pairs)} }}")
    return "\n".join(lines)


def _counts(settings: Data, recorded: Recorded, device: str) -> Table:
    found = counts(settings, recorded, device)
    labels = sorted(set(recorded.labels))
    shown = Table(box=None, padding=(0, 2, 0, 0))
    shown.add_column("")
    for part in PARTS:
        shown.add_column(part, justify="right")
    for label in labels:
        mark = " (no class)" if settings.classes and label not in settings.classes else ""
        shown.add_row(escape(label) + mark, *(f"{found[part].get(label, 0):,}" for part in PARTS))
    shown.add_row("[bold]in all[/bold]", *(f"{sum(found[part].values()):,}" for part in PARTS))
    return shown


def _facts(settings: Data, recorded: Recorded) -> Iterator[str]:
    shape = "x".join(map(str, recorded.inputs.shape[1:]))
    recordings = len(set(recorded.recordings))
    yield f"{len(recorded):,} examples of shape {shape}, {recorded.inputs.dtype}, of {recordings:,} recordings"
    if recordings < _FEW:
        yield f"a recording is in one part as a whole, and {recordings} make few parts: split what is long into files"
    if settings.name == "sounds":
        seconds = (settings.sounds or Sounds()).seconds
        yield f"{len(recorded) * seconds:,g} seconds of sound, in examples of {seconds:g}"
    if recorded.targets is not None and len(recorded.targets):
        for name, values in zip(settings.classes, recorded.targets.T, strict=True):
            yield f"target {name}: from {values.min():g} to {values.max():g}, mean {values.mean():g}"
    if recorded.features:
        yield f"signals: {', '.join(recorded.features)}"
    others = Counter(label for label in recorded.labels if label not in settings.classes) if settings.classes else {}
    for label, count in sorted(others.items()):
        classes = ", ".join(settings.classes)
        yield f"label {label!r} is no class of the experiment: {count:,} examples stay out; classes are {classes}"
    if len(devices := _of_devices(settings, recorded)) > 1:
        yield f"{', '.join(devices[:3])} look like one folder a device, not labels: give the folder in one of them"
    if recorded.targets is None and (missing := [name for name in settings.classes if name not in recorded.labels]):
        yield f"no example of {', '.join(missing)}"
    if settings.name in ("sounds", "pictures") and {label.lower() for label in recorded.labels} <= _SPLITS:
        yield f"{', '.join(sorted(set(recorded.labels)))} look like splits, not labels: give the folder in one of them"


def _of_devices(settings: Data, recorded: Recorded) -> list[str]:
    """The first folders of recordings, where all of these lie in folders of folders, some of which are called alike."""
    paths = [name.split("/") for name in set(recorded.recordings)]
    if settings.name not in ("sounds", "pictures") or not all(len(path) > 2 for path in paths):
        return []
    inner = Counter(second for _, second in {(first, second) for first, second, *_ in paths})
    return sorted({first for first, *_ in paths}) if max(inner.values(), default=0) > 1 else []


def _table(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip().startswith("data."):
        raise ExperimentError(f"--set {override}: expected data.key=value, for example data.tables.label=activity")
    for value in (text, json.dumps(text)):  # a bare word is a string
        try:
            return parse(f"{key} = {value}")
        except TomlError:
            continue
    raise ExperimentError(f"--set {override}: {key!r} is no key")


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """``one`` with all that ``other`` says, table by table."""
    both = dict(one)
    for key, value in other.items():
        here = both.get(key)
        both[key] = _merged(here, value) if isinstance(here, dict) and isinstance(value, dict) else value
    return both


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
