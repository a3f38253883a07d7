"""What metrics.jsonl and result.json of a run's folder hold, checked when they are read: a folder may be anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Refused(msgspec.Struct, frozen=True):
    """What a device said that would not fit its memory."""

    refused: Count
    memory_bytes: Count


class Metric(msgspec.Struct, frozen=True):
    """What values are of, where it is not an accuracy."""

    name: str
    unit: str
    higher: bool


class Worst(msgspec.Struct, frozen=True):
    """The device that does worst."""

    device: Count | str
    accuracy: float | None = None
    value: float | None = None


class Row(msgspec.Struct, frozen=True):
    """A line of metrics.jsonl: what came of one phase."""

    round: Annotated[int, Meta(ge=-1, le=2**31)]
    phase: str
    part: str = ""
    accuracy: float | None = None
    metric: Metric | None = None
    value: float | None = None
    loss: float | None = None
    density: float | None = None
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    seconds: float | None = None
    device_seconds: float | None = None
    asked: list[Count | str] | None = None
    devices: Count | None = None
    retried: Count | None = None
    late: list[Count | str] | None = None
    faults: dict[str, str] = {}
    absent: dict[str, str] = {}
    aside: dict[str, str] = {}
    strangers: dict[str, str] = {}
    replanned: dict[str, str] = {}
    refused: dict[str, Refused] = {}
    unused: dict[str, Count] = {}
    grown: dict[str, str] = {}
    worst: Worst | None = None
    mean_device: float | None = None
    kept: dict[str, float] = {}
    """Of a training phase: kept weights of each prunable layer."""


class Checked(msgspec.Struct, frozen=True):
    """How a form of the model did on test examples."""

    examples: Count
    accuracy: float | None
    agreement: float | None
    value: float | None = None


class TierResult(msgspec.Struct, frozen=True):
    """What result.json says of a tier."""

    name: str
    part: str
    devices: Count
    density: float
    accuracy_float: float | None
    accuracy_int8: float | None
    worst_device: Worst | None
    accuracy_by_device: dict[str, float | None]
    flash_bytes: Count
    flash_bytes_allowed: Count
    arena_bytes: Count | None
    sram_bytes_allowed: Count
    train_memory_bytes_allowed: Count
    train_memory_bytes_predicted: Count
    fits: bool
    bytes: dict[str, Count]
    metric: Metric | None = None
    agreement: Metric | None = None
    value_float: float | None = None
    value_int8: float | None = None
    value_by_device: dict[str, float | None] = {}
    c99_arena_bytes: Count | None = None
    c99_constants_bytes: Count | None = None
    c99_flash_bytes_predicted: Count | None = None
    no_c: str | None = None
    int8_loss: float | None = None
    warnings: list[str] = []
    calibration: str = ""
    signal_to_noise_db: dict[str, float] = {}


class Arm(msgspec.Struct, frozen=True):
    """What came of the smaller net from fresh weights."""

    rounds: Count
    compute: float
    values: list[float]
    gain: float
    half: float


class Scratch(msgspec.Struct, frozen=True):
    """By arm, E or B, with how alike initial weights were to the run's."""

    correlation: float
    arms: dict[str, Arm]
    given_weights: bool = False
    """Whether the run itself began with weights that were trained elsewhere."""


class Result(msgspec.Struct, frozen=True):
    """result.json: the outcome of a run."""

    name: str
    method: str
    model: str
    data: str
    devices: Count
    rounds: Count
    seed: Count
    accuracy_float: float | None
    accuracy_int8: float | None
    density: float
    density_all: float
    parameters: Count
    parameters_kept: Count
    arena_bytes: Count | None
    bytes: dict[str, Count]
    bytes_up: Count
    bytes_down: Count
    checks: dict[str, Checked]
    versions: dict[str, str]
    metric: Metric | None = None
    agreement: Metric | None = None
    value_float: float | None = None
    value_int8: float | None = None
    c99_arena_bytes: Count | None = None
    c99_constants_bytes: Count | None = None
    c99_flash_bytes_predicted: Count | None = None
    no_c: str | None = None
    no_export: str | None = None
    """Why there is no .tflite either, and so no C."""
    int8_loss: float | None = None
    warnings: list[str] = []
    calibration: str = ""
    signal_to_noise_db: dict[str, float] = {}
    tiers: dict[str, TierResult] = {}
    scratch: Scratch | None = None


FORMS = ("litert_float", "litert_int8", "tflm")
SHIPPED = ("float32, dense", "int8 .tflite, compacted", "int8 .tflite, compacted, gzip")
"""Of the forms whose bytes a result lists, those that every reader names."""


def rows(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], int]:
    """The rows of the lines of a metrics.jsonl, and how many lines are none, such as one that a crash cut short."""
    found, damaged = [], 0
    for line in filter(bytes.strip, lines):
        try:
            row = json.loads(line)  # which knows a loss that is infinite
            msgspec.convert(row, Row)
        except (ValueError, RecursionError):
            damaged += 1
            continue
        found.append(row)
    return found, damaged


def result(content: bytes, tiers: Iterable[str]) -> dict[str, Any]:
    """The table of a result.json, of a run with these tiers. ValueError where it is none."""
    try:
        table: dict[str, Any] = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    found = msgspec.convert(table, Result)
    for key, given, names in (("checks", found.checks, FORMS), ("tiers", found.tiers, [*tiers])):
        if differ := sorted(given.keys() ^ {*names}):
            raise ValueError(f"{key}: {differ[0]!r} is {'not expected' if differ[0] in given else 'missing'}")
    shipped = SHIPPED if found.no_export is None else SHIPPED[:1]
    if missing := [form for form in shipped if form not in found.bytes]:
        raise ValueError(f"bytes: {missing[0]!r} is missing")
    return table
