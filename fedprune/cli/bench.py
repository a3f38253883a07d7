"""What ``fedprune bench`` and ``fedprune export`` show: what a model costs where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.experiment import ExperimentError
from fedprune.export.text import one_line

if TYPE_CHECKING:
    from fedprune.export.chip.benching import Costs

_CHIP = "cortex-m4"  # what exports are shown for
_LINE = 500  # characters of an error
_MOST_BYTES = 2**31 - 1  # of a .tflite: its offsets have no more bits
WRONG = (ValueError, RuntimeError, OSError, MemoryError)
"""What a model that somebody brings may raise."""


class Place(StrEnum):
    """Where a model is measured."""

    host = "host"
    cortex_m4 = "cortex-m4"
    cortex_m3 = "cortex-m3"
    cortex_m7 = "cortex-m7"
    cortex_m0 = "cortex-m0"
    aarch64 = "aarch64"


def models(file: Path) -> dict[str, bytes]:
    """The .tflite files that are meant, by name: a file, or those of a run's folder. ExperimentError for none."""
    names = ("model.tflite", "model_float.tflite")
    paths = [file / name for name in names if (file / name).is_file()] if file.is_dir() else [file]
    if not paths:
        raise ExperimentError(f"{file}: holds no {names[0]}; name a .tflite file or the folder of a finished run")
    found = {path.name: read_model(path) for path in paths}
    for path in paths:
        if found[path.name][4:8] != b"TFL3":
            raise ExperimentError(f"{path}: is no .tflite file; name one, or a run's folder")
    return found


def read_model(path: Path) -> bytes:
    """The bytes of a .tflite file. ExperimentError for one that is not there, or of no end."""
    try:
        if path.exists() and not path.is_file():
            raise ExperimentError(f"{path}: is no file; name a .tflite file or a run's folder")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ExperimentError(f"{path}: is no .tflite file: its {size:,} bytes are more than {_MOST_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise ExperimentError(f"{path}: {error.strerror}; name a .tflite file or a run's folder") from error


def why(error: Exception) -> str:
    """What one of `WRONG` says, in one line."""
    return one_line(str(error), _LINE) or "takes more memory than there is"


def bench(console: Console, file: Path, place: Place) -> None:
    """Measure a model in one place and print the table. ExperimentError for what cannot be measured there."""
    found = models(file)
    name, model = next(iter(found.items()))
    try:
        if place in (Place.host, Place.aarch64):
            _latencies(console, found, place)
        else:
            from fedprune.export.chip.benching import on_chip

            with console.status(escape(f"{name} on {place}")):
                costs = on_chip(model, place)
            show_costs(console, costs, place, None)
    except WRONG as error:
        raise ExperimentError(f"{file}: {why(error)}") from error


def show_export(console: Console, folder: Path, accuracy: float | None) -> None:
    """What the model in a microcontroller's folder costs on a Cortex-M4, or what is missing to measure it.

    ExperimentError where it cannot be measured; the folder stays as it is.
    """
    from fedprune.export.c99.boards import missing
    from fedprune.export.chip import benching

    model = (folder / "model.tflite").read_bytes()
    if lacking := missing(_CHIP):
        console.print(f"instructions were not counted: {lacking}", soft_wrap=True)
        return
    try:
        with console.status(escape(f"{folder} on {_CHIP}")):
            costs = benching.on_chip(model, _CHIP)
        show_costs(console, costs, _CHIP, accuracy)
    except WRONG as error:
        raise ExperimentError(f"{folder} is written, but was not measured: {why(error)}") from error


def show_costs(console: Console, costs: Mapping[str, Costs], place: str, accuracy: float | None) -> None:
    """A row for each way to run a model on a chip."""
    table = _table(place, "flash, bytes", "RAM, bytes", "instructions", *(["accuracy"] if accuracy is not None else []))
    for way, each in costs.items():
        counted = "not counted" if each.instructions is None else f"{each.instructions:,}"
        row = (way, f"{each.flash_bytes:,}", f"{each.ram_bytes:,}", counted)
        table.add_row(*row, *([f"{100 * accuracy:.2f} %"] if accuracy is not None else []))
    console.print(table)
    against = next((each.against for each in costs.values() if each.against), "")
    compared = f"C99 gave the bits of {against}." if against else "C99's bits were compared with nothing here."
    if wrong := [way for way, each in costs.items() if each.differing]:
        raise RuntimeError(f"{', '.join(wrong)} differs from {against}: please report this model")
    console.print(
        "C99: code, constants and startup; static memory and stack. TFLM is TensorFlow Lite Micro: the model alone, "
        f"without the runtime's code; its arena on 64 bits. {compared}",
        soft_wrap=True,
    )


def show_files(console: Console, files: Mapping[str, bytes], accuracies: Mapping[str, Any]) -> None:
    """A row for each .tflite file: bytes, latency on this machine, accuracy where it is known."""
    _latencies(console, files, Place.host, accuracies)


def _latencies(
    console: Console, files: Mapping[str, bytes], place: Place, accuracies: Mapping[str, Any] | None = None
) -> None:
    from fedprune.export.chip import benching
    from fedprune.export.litert import aarch64

    with console.status(escape(f"{', '.join(files)} on {place}")):
        measure = benching.on_host if place is Place.host else aarch64.emulated
        found = measure([*files.values()])
    table = _table(str(place), "bytes", "median, ms", "90 %, ms", *(["accuracy"] if accuracies else []))
    for (name, content), each in zip(files.items(), found, strict=True):
        latency = each.latency
        row = [escape(name), f"{len(content):,}", f"{latency.median_ms:.3f}", f"{latency.p90_ms:.3f}"]
        if accuracies:
            row.append(f"{100 * accuracies[name]:.2f} %" if accuracies.get(name) is not None else "-")
        table.add_row(*row)
    console.print(table)
    note = "one thread" if place is Place.host else "one thread of an emulated Cortex-A72: only ratios count"
    console.print(f"LiteRT, batch 1, {note}.")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
