"""What runs leave about devices, checked when it is read: devices.json, deployed.json, the rows of a deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from fedprune.runs.folder_files import Metric


class Seen(msgspec.Struct, frozen=True):
    """What a devices.json says of a node."""

    last_reply: str = ""
    rounds: int = 0
    round: int = -1
    lag_s: float = 0.0
    device: int | str = -1
    memory_bytes: int = 0
    compiled: bool = True
    trainer: Literal["", "native", "torch"] = ""
    error: str = ""


class InUse(msgspec.Struct, frozen=True):
    """The model that a device uses, as it said."""

    sha256: str
    run: str
    accuracy: float | None
    metric: Metric | None = None
    value: float | None = None


class Latency(msgspec.Struct, frozen=True):
    """Of one inference on the device, in milliseconds."""

    median: float
    p90: float


class Delivered(msgspec.Struct, frozen=True):
    """How bringing a model to a device went."""

    name: str
    partition: int
    tier: str
    bytes: int
    answered: bool
    used: bool
    reason: str
    accuracy: float | None
    accuracy_before: float | None
    latency_ms: Latency | None
    memory_bytes: int | None
    in_use: InUse | None
    metric: Metric | None = None
    value: float | None = None
    value_before: float | None = None
    node: str | None = None
    """Flower's id of it, which goes with its key: another device may come to have its name."""


def seen(path: Path) -> dict[str, dict[str, Any]]:
    """Node id -> what is known of it; empty where the file is not there, or damaged."""
    found = _read(path, dict[str, Seen])
    return found if isinstance(found, dict) else {}


def delivered(path: Path) -> list[dict[str, Any]]:
    """A row a device; none where the file is not there, or damaged."""
    found = _read(path, list[Delivered])
    return found if isinstance(found, list) else []


def _read(path: Path, kind: Any) -> Any:
    try:
        found = json.loads(path.read_bytes())
        msgspec.convert(found, kind)
    except (OSError, ValueError, RecursionError):
        return None
    return found
