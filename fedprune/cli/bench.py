"""What ``fedprune bench`` and ``fedprune export`` show: what a model costs where it runs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.experiment import ExperimentError
from fedprune.export.text import one_line
from fedprune.tasks import ACCURACY, Metric

if TYPE_CHECKING:
    from fedprune.export.chip.benching import Costs

_CHIP = "cortex-m4"  # what exports are shown for
_SAID = (
    "C99: code, constants and startup; static memory and stack. TFLM is TensorFlow Lite Micro: the model alone, "
    "without the runtime's code; its arena on 64 bits."
)
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
    cortex_m33 = "cortex-m33"
    cortex_m55 = "cortex-m55"
    aarch64 = "aarch64"


class Peer(StrEnum):
    """What a model is measured against."""

    tflm = "tflm"


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


def bench(console: Console, file: Path, place: Place, against: Peer | None = None) -> None:
    """Measure a model in one place and print the table. ExperimentError for what cannot be measured there."""
    found = models(file)
    name, model = next(iter(found.items()))
    here = place in (Place.host, Place.aarch64)
    if against and here:
        raise ExperimentError(f"--against {against} is for a chip: name one, such as --on {_CHIP}")
    try:
        if here:
            _latencies(console, found, place)
            return
        from fedprune.export.chip.benching import beside_tflm, on_chip

        with console.status(escape(f"{name} on {place}")):
            costs, inputs = beside_tflm(model, place) if against else (on_chip(model, place), 0)
        if against:
            _show_side_by_side(console, costs, place, inputs)
        else:
            show_costs(console, costs, place)
    except WRONG as error:
        raise ExperimentError(f"{file}: {why(error)}") from error


def _show_side_by_side(console: Console, costs: Mapping[str, Costs], place: str, inputs: int) -> None:
    table = _table(place, *costs)
    table.add_row("flash, bytes", *(f"{each.flash_bytes:,}" for each in costs.values()))
    table.add_row("RAM, bytes", *(f"{each.ram_bytes:,}" for each in costs.values()))
    table.add_row("instructions", *(_counted(each) for each in costs.values()))
    alike = ("" if each.differing is None else f"{inputs - each.differing} of {inputs}" for each in costs.values())
    table.add_row("inputs alike", *alike)
    console.print(table)
    console.print(
        f"{_SAID} Not measured, for nothing here builds it for a chip: its code, stack and instructions.",
        soft_wrap=True,
    )
    _check(costs)


def _counted(each: Costs) -> str:
    return "not measured" if each.instructions is None else f"{each.instructions:,}"


def show_export(console: Console, folder: Path, metric: Metric = ACCURACY, value: float | None = None) -> None:
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
        show_costs(console, costs, _CHIP, metric, value)
    except WRONG as error:
        raise ExperimentError(f"{folder} is written, but was not measured: {why(error)}") from error


def show_costs(
    console: Console, costs: Mapping[str, Costs], place: str, metric: Metric = ACCURACY, value: float | None = None
) -> None:
    """A row for each way to run a model on a chip."""
    table = _table(place, "flash, bytes", "RAM, bytes", "instructions", *([metric.name] if value is not None else []))
    for way, each in costs.items():
        row = (way, f"{each.flash_bytes:,}", f"{each.ram_bytes:,}", _counted(each))
        table.add_row(*row, *([metric.text(value)] if value is not None else []))
    console.print(table)
    _check(costs)
    beside = next((each.beside for each in costs.values() if each.beside), "")
    compared = f"C99 gave the bits of {beside}'s reference kernels." if beside else "Nothing here runs it to compare."
    console.print(
        f"{_SAID} {compared}",
        soft_wrap=True,
    )


def _check(costs: Mapping[str, Costs]) -> None:
    if wrong := [way for way, each in costs.items() if each.differing]:
        named = f"{', '.join(wrong)} differs from the reference kernels of {costs[wrong[0]].beside}"
        raise RuntimeError(f"{named}: please report this model")


def show_files(
    console: Console, files: Mapping[str, bytes], metric: Metric, values: Mapping[str, float | None]
) -> None:
    """A row for each .tflite file: bytes, latency on this machine, the metric where it is known."""
    _latencies(console, files, Place.host, metric, values)


def _latencies(
    console: Console,
    files: Mapping[str, bytes],
    place: Place,
    metric: Metric = ACCURACY,
    values: Mapping[str, float | None] | None = None,
) -> None:
    from fedprune.export.chip import benching
    from fedprune.export.litert import aarch64

    with console.status(escape(f"{', '.join(files)} on {place}")):
        measure = benching.on_host if place is Place.host else aarch64.emulated
        found = measure([*files.values()])
    table = _table(str(place), "bytes", "median, ms", "90 %, ms", *([metric.name] if values else []))
    for (name, content), each in zip(files.items(), found, strict=True):
        latency = each.latency
        row = [escape(name), f"{len(content):,}", f"{latency.median_ms:.3f}", f"{latency.p90_ms:.3f}"]
        if values:
            row.append(metric.text(values[name]) if values.get(name) is not None else "-")
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
