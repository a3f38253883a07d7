"""What a run has come to, on the screen: a short table, and where everything lies."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedprune.runs.report.warned import warned
from fedprune.tasks import SAME_CLASS, Metric, agreement_in, metric_in, value_in

if TYPE_CHECKING:
    from fedprune.runs.scratch import Arm


def summary(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    """The outcome as a short table, and where everything lies."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    metric = metric_in(result)
    agreement, cannot = result["checks"]["litert_int8"]["agreement"], result.get("no_export")
    for key, value in (
        (f"{metric.name}, torch", metric.text(value_in(result, "float"))),
        (
            f"{metric.name}, model.tflite",
            metric.text(value_in(result, "int8")) + _agrees(result, agreement),
        ),
        ("density", f"{result['density']:.4f} of the prunable weights, {result['density_all']:.4f} of all"),
        ("parameters kept", f"{result['parameters_kept']:,} of {result['parameters']:,}"),
        *(_files(result["bytes"]) if not cannot else [("model.tflite", f"none: {cannot}")]),
        *(_on_chips(result) if not cannot else []),
        ("on the link", f"{result['bytes_up'] / 1e6:.2f} MB up, {result['bytes_down'] / 1e6:.2f} MB down, all devices"),
    ):
        table.add_row(escape(key), escape(value))
    console.print(table)
    if result.get("tiers"):
        console.print(_tiers(result["tiers"], metric))
    warn(console, result)
    for name, what in (
        ("model.npz", "the masked model, as numpy arrays"),
        *(_exported(result) if not cannot else ()),
        *([("tiers/", "the same files for each tier, with a card")] if result.get("tiers") else []),
        ("metrics.jsonl", "a line for each round and phase"),
        ("result.json", "the outcome"),
        ("report.html", "all of it, drawn"),
    ):
        console.print(f"  {folder / name!s:<46} {what}", markup=False, soft_wrap=True)


def _exported(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    runs = result["arena_bytes"] is not None
    where, beside = (", a Raspberry Pi or TensorFlow Lite Micro", ", a file for TensorFlow Lite Micro") if runs else (
        " or a Raspberry Pi", ""
    )  # fmt: skip
    files = [("model.tflite", f"int8, for a phone{where}")]
    in_c = [("microcontroller/", f"C99 sources with an example{beside}, a card")]
    return files if result.get("c99_arena_bytes") is None else [*files, *in_c]


def warn(console: Console, result: Mapping[str, Any]) -> None:
    """What a result warns of, of the model and of each tier."""
    for said in warned(result):
        console.print(f"[yellow]warning: {escape(said)}[/yellow]", soft_wrap=True)


def _files(size: Mapping[str, int]) -> list[tuple[str, str]]:
    file, download = size["int8 .tflite, compacted"], size["int8 .tflite, compacted, gzip"]
    return [("model.tflite", f"{file:,} bytes, {download:,} to download; dense float32 {size['float32, dense']:,}")]


def _agrees(result: Mapping[str, Any], agreement: float | None) -> str:
    metric = agreement_in(result)
    if agreement is None:
        return ""
    if metric == SAME_CLASS:
        return f"; torch's class on {metric.text(agreement)}"
    return f"; {metric.name} {metric.text(agreement)}"


def _on_chips(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the model takes of a microcontroller, as C99 sources and in TensorFlow Lite Micro."""
    if result.get("c99_arena_bytes") is None:
        return [("microcontroller", f"no C: {result.get('no_c')}")]
    flash, ram = result.get("c99_flash_bytes_predicted"), f"{result['c99_arena_bytes']:,}"
    needed = f"about {flash:,} bytes of flash in all; {ram} of static RAM" if flash else f"{ram} bytes of static RAM"
    in_c = [("microcontroller, C99", needed)]
    file, arena = result["bytes"].get("int8, zeros left out, for microcontrollers"), result["arena_bytes"]
    if file is None or arena is None:
        why = result["checks"].get("tflm", {}).get("why")
        return [*in_c, ("microcontroller, TFLM", f"none: {why}")] if why else in_c
    return [*in_c, ("microcontroller, TFLM", f"{file:,} bytes and the runtime's code; {arena:,} of RAM")]


def _tiers(tiers: Mapping[str, Mapping[str, Any]], metric: Metric) -> Table:
    """The model of each tier."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("tier", "density", f"{metric.name}, int8", "worst device", "flash, bytes", "arena, bytes"):
        table.add_column(head, justify="left" if head == "tier" else "right")
    for name, tier in tiers.items():
        worst = tier["worst_device"]
        label = name if tier["fits"] else f"{name}, [red]too large[/red]"
        table.add_row(
            label, f"{tier['density']:.4f}", metric.text(value_in(tier, "int8")),
            f"{metric.text(value_in(worst))} ({escape(str(worst['device']))})" if worst else metric.text(None),
            f"{tier['flash_bytes']:,}",
            f"{tier['arena_bytes']:,}" if tier["arena_bytes"] else "not measured",
        )  # fmt: skip
    return table


def compared(console: Console, result: Mapping[str, Any], arms: Mapping[str, Arm]) -> None:
    """The smaller net from fresh weights, beside the run that found it."""
    metric = metric_in(result)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("the smaller net", "rounds", "compute", metric.name, "the run's gain"):
        table.add_column(head, justify="left" if head == "the smaller net" else "right")
    table.add_row("as this run found it", str(result["rounds"]), "1.00", metric.text(value_in(result, "float")), "")
    for name, arm in arms.items():
        equal = {"E": "equal rounds", "B": "equal compute"}[name]
        table.add_row(
            f"Scratch-{name}, fresh weights, {equal}", str(arm.rounds), f"{arm.compute:.2f}",
            metric.text(statistics.mean(arm.values)), metric.apart(arm.gain, arm.half),
        )  # fmt: skip
    console.print(table)
    console.print("±: half of the 95 % interval over the fresh weights; the run itself is one.", soft_wrap=True)
