"""What ``fedprune inspect`` shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fedprune.cli.ended import warn
from fedprune.experiment import ExperimentError

if TYPE_CHECKING:
    from fedprune.export.inspection.file import Inspection
    from fedprune.export.litert import Port


def show_inspection(console: Console, inspection: Inspection) -> None:
    """A row for each operator, then what the file holds in all and what it takes and gives."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "output", "weight"):
        table.add_column(column)
    for column in ("bytes", "zeros", "multiply-adds"):
        table.add_column(column, justify="right")
    table.add_column("stored")
    for row in inspection.rows:
        sizes = (_count(row.weight_bytes), _percent(row.zeros), _count(row.macs))
        table.add_row(_plain(row.operator[:60]), _shape(row.output), _shape(row.weight), *sizes, row.encoding or "-")
    sizes = (_count(inspection.weight_bytes), _percent(inspection.zeros), _count(inspection.macs))
    table.add_row("[bold]in all[/bold]", "", "", *sizes)
    console.print(table)
    console.print("\n" + "\n".join(_totals(inspection)), highlight=False, soft_wrap=True)


def show_noise(console: Console, folder: Path) -> None:
    """Of a finished run: what it warns of, and the signal to noise of each layer, the noisiest first."""
    from fedprune.runs.folder import RunFolder

    try:
        result = RunFolder(folder).read_result()
    except ExperimentError:  # a folder with a file that came from elsewhere
        return
    if found := result.get("signal_to_noise_db"):
        table = Table("layer, the noisiest first", Column("dB, int8 against torch", justify="right"), box=None)
        for layer, value in found.items():
            table.add_row(_plain(layer), f"{value:.1f}")
        console.print("", table)
    warn(console, result)


def _totals(inspection: Inspection) -> list[str]:
    numbers = ", ".join(inspection.activations)
    weights = f", {', '.join(inspection.weights)} weights" if inspection.weights else ""
    arena = "not known for this file" if inspection.arena_bytes is None else f"{inspection.arena_bytes:,} bytes"
    return [
        f"{escape(inspection.name) or 'the file'}: {inspection.file_bytes:,} bytes = "
        f"{inspection.weight_bytes:,} weights + {inspection.bias_bytes:,} biases + {inspection.other_bytes:,} other",
        f"numbers: {numbers}{weights}",
        f"arena in TensorFlow Lite Micro, predicted: {arena}",
        *(f"takes: {_port(port)}" for port in inspection.inputs),
        *(f"gives: {_port(port)}" for port in inspection.outputs),
    ]


def _plain(text: str) -> str:
    # Names come from the file, and may hold anything: no control characters, no markup.
    return escape("".join(sign if sign.isprintable() else "?" for sign in text))


def _port(port: Port) -> str:
    grid = "" if port.grid is None else f", scale {port.grid.scale:.6g}, zero point {port.grid.zero_point}"
    return f"{_shape(port.shape)}{grid}" + (f" tokens, 0 to {port.vocabulary - 1}" if port.vocabulary else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "-"


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
