"""What a hazard leaves: a line of the table, and how a run is judged against the same one undisturbed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

HELD, FAILED, SKIPPED = "held", "FAILED", "skipped"


class Outcome(NamedTuple):
    """A hazard, over: a line of the table."""

    happened: str
    """To the run."""
    lost: str
    seen: str
    """What the operator saw of it."""
    verdict: str
    figures: Mapping[str, tuple[float, str]] = MappingProxyType({})
    """Name -> (value, unit)."""


class Hazard(NamedTuple):
    """What may happen to a fleet."""

    title: str
    run: Callable[[Path], Outcome]
    """Given an empty folder for whatever it needs."""
    limit_s: float
    """After this it is ended, and has failed."""
    quick: Callable[[Path], Outcome] | None = None
    """A piece of it, or all, within some seconds; None where a piece of another stands for its kind."""


class Failed(Exception):
    """A hazard did harm, or could not be brought about: what, in one line."""


def skipped(why: str) -> Outcome:
    """The outcome of a hazard that cannot be brought about here."""
    return Outcome("not run", "-", why, SKIPPED)


def difference(one: Path, other: Path) -> str:
    """In what two runs' folders differ that should hold the same model, bit for bit; "" where they do not."""
    for name in ("model.npz", "model.tflite"):
        for folder in (one, other):
            if not (folder / name).exists():
                return f"there is no {name} in {folder.name}"
    with np.load(one / "model.npz") as here, np.load(other / "model.npz") as there:
        if sorted(here.files) != sorted(there.files):
            return "other tensors"
        differ = [name for name in here.files if here[name].tobytes() != there[name].tobytes()]
    if differ:
        return f"{len(differ)} tensors differ, such as {differ[0]}"
    return (
        "" if (one / "model.tflite").read_bytes() == (other / "model.tflite").read_bytes() else "model.tflite differs"
    )


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; one that is being written is left out."""
    file, found = run / "metrics.jsonl", []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def phases(run: Path) -> list[tuple[int, str]]:
    """(round, phase) of every line of a run's metrics, sorted: a fleet's tests travel with the next round."""
    return sorted((row["round"], row["phase"]) for row in rows(run))


def said(run: Path) -> str:
    """What a run's metrics tell of devices that did not answer, each reason once."""
    found: dict[str, None] = {}
    for row in rows(run):
        for kind in ("faults", "absent", "aside", "strangers"):
            for who, why in row.get(kind, {}).items():
                found[f"device {who}: {why}" if kind != "strangers" else f"a stranger {why}"] = None
        if row.get("retried"):
            found["a phase was asked again"] = None
    return "; ".join(list(found)[:4])
