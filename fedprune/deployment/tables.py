"""The state of a fleet as two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from fedprune.deployment.deploying import percent
from fedprune.deployment.state import FleetState


def devices(state: FleetState, size: Callable[[float], str]) -> Table:
    """A line for each device; ``size`` writes bytes."""
    table = _table(
        "device",
        "partition",
        "tier",
        "registered",
        "online",
        "last seen",
        "rounds",
        "answers in",
        "memory",
        "model",
        "last error",
    )
    for one in state.devices:
        memory = size(one.memory_bytes) if one.memory_bytes else "-"
        cells = (
            one.name, str(one.partition), one.tier or "-", _yes(one.registered), _yes(one.online),
            one.last_seen or "never", str(one.rounds), f"{one.lag_s:.1f} s" if one.lag_s else "-", memory,
            one.model or "-", one.error or "-",
        )  # fmt: skip
        table.add_row(*(escape(cell) for cell in cells))
    return table


def runs(state: FleetState) -> Table:
    """A line for each run, the newest first."""
    table = _table("run", "results", "status", "started", "seconds", "details")
    for one in state.runs:
        cells = (
            one["run-id"], one.get("results") or "-", one["status"], one.get("pending-at", "-"),
            f"{float(one.get('elapsed', 0)):.0f}", str(one.get("status-details") or "-").replace("N/A", "-"),
        )  # fmt: skip
        table.add_row(*(escape(str(cell)) for cell in cells))
    return table


def deployed(rows: Sequence[Mapping[str, Any]], size: Callable[[float], str]) -> Table:
    """A line for each device that was to get a model; accuracies are on its own test part."""
    table = _table("device", "tier", "bytes", "accuracy before", "now", "latency", "memory", "in use", "reason")
    for row in rows:
        latency = f"{row['latency_ms']['median']:.2f} ms" if row["latency_ms"] else "-"
        memory = size(row["memory_bytes"]) if row["memory_bytes"] is not None else "-"
        cells = (
            row["name"], row["tier"] or "-", f"{row['bytes']:,}", percent(row["accuracy_before"]),
            percent(row["accuracy"]), latency, memory, _yes(row["used"]) if row["answered"] else "?",
            row["reason"] or "-",
        )  # fmt: skip
        table.add_row(*(escape(str(cell)) for cell in cells))
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"
