"""The state of a fleet as tables that 80 columns hold: numbers first, then below what takes words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from fedprune.deployment.deploying import judged
from fedprune.deployment.state import FleetState

_MINUTES = len("2026-11-22 22:59")


def devices(state: FleetState, size: Callable[[float], str]) -> Group:
    """A line for each device, then tiers, models in use, last errors, and who is not registered yet.

    ``size`` writes bytes; times are UTC.
    """
    numbers = _table("device", "partition", "last seen", "rounds", "last answer", "memory")
    for one in state.devices:
        memory = size(one.memory_bytes) if one.memory_bytes else "-"
        cells = (
            one.name, str(one.partition), "online" if one.online else _minute(one.last_seen) or "never",
            str(one.rounds), f"{one.lag_s:.1f} s" if one.lag_s else "-", memory,
        )  # fmt: skip
        numbers.add_row(*(escape(cell) for cell in cells))
    return Group(
        numbers,
        *_said("tier", ((one.name, one.tier) for one in state.devices)),
        *_said("trains with", ((one.name, one.trainer) for one in state.devices)),
        *_said("model in use", ((one.name, one.model) for one in state.devices)),
        *_said("last error", ((one.name, one.error) for one in state.devices)),
        *_said("not registered", ((one.name, "" if one.registered else _LATER) for one in state.devices)),
    )


_LATER = "the server registers it when it starts"


def runs(state: FleetState) -> Group:
    """A line for each run, the newest first, and what Flower says of it besides. Times are UTC."""
    numbers, details = _table("run", "results", "status", "started", "seconds"), []
    for one in state.runs:
        cells = (
            one["run-id"], one.get("results") or "-", str(one["status"]).removeprefix("finished:"),
            _minute(str(one.get("pending-at", "-"))), f"{float(one.get('elapsed', 0)):.0f}",
        )  # fmt: skip
        numbers.add_row(*(escape(str(cell)) for cell in cells))
        details.append((str(one["run-id"]), str(one.get("status-details") or "").replace("N/A", "")))
    return Group(numbers, *_said("details", details))


def deployed(rows: Sequence[Mapping[str, Any]], size: Callable[[float], str]) -> Group:
    """A line for each device that was to get a model, and why it is not used; accuracies are on its own test part."""
    numbers = _table("device", "tier", "bytes", "before", "now", "latency", "memory", "in use")
    for row in rows:
        latency = f"{row['latency_ms']['median']:.2f} ms" if row["latency_ms"] else "-"
        memory = size(row["memory_bytes"]) if row["memory_bytes"] is not None else "-"
        used = "yes" if row["used"] else "no"
        cells = (
            row["name"], row["tier"] or "-", f"{row['bytes']:,}", judged(row, "before"),
            judged(row), latency, memory, used if row["answered"] else "?",
        )  # fmt: skip
        numbers.add_row(*(escape(str(cell)) for cell in cells))
    return Group(numbers, *_said("reason", ((row["name"], row["reason"]) for row in rows)))


def _table(name: str, *heads: str) -> Table:
    """The first column gives way where there is no room: a name may have 64 letters."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(name, overflow="fold")
    for head in heads:
        table.add_column(head, no_wrap=head not in ("tier", "results"), overflow="fold")
    return table


def _said(what: str, pairs: Iterable[tuple[str, str]]) -> list[Table]:
    """A table of those of whom something is said; none where nothing is."""
    found = [pair for pair in pairs if pair[1]]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", overflow="fold", max_width=24)
    table.add_column(what, overflow="fold")
    for name, text in found:
        table.add_row(escape(name), escape(text))
    return [table] if found else []


def _minute(time: str) -> str:
    return time.replace("T", " ")[:_MINUTES]
