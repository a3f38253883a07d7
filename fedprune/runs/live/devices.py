"""What the lines of metrics say of each device: what it last did, how it failed, what memory it has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from fedprune.experiment import Experiment, training_devices
from fedprune.runs.report.attendance import attendance, named, numbered, roster, whole, wholes
from fedprune.tasks import value_in


def devices(
    experiment: Experiment | None,
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    nodes: Mapping[int | str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """A line for each device that trains, in order: what ``attendance`` says of it, and more.

    ``worst`` is its accuracy, or what else the run is judged by, and the round when it last did worst of all;
    ``accuracy`` that of its own tier at the end;
    ``lag_s`` is how long its last answer took to come, over a real link.
    """
    names = roster(rows)
    rows = numbered(rows, names)
    found = attendance(rows, max(_count(experiment, rows), len(names)))
    fleet = experiment.fleet if experiment else {}
    tiers = [name for name, tier in fleet.items() if tier.trains for _ in range(tier.devices)]
    ended = (result or {}).get("tiers") or {}
    for line in found:
        index = line["device"]
        called: int | str = names[index] if index < len(names) else index
        tier = tiers[index] if index < len(tiers) else ""
        node = nodes.get(called, {})
        lag = node.get("lag_s")
        line |= {"tier": tier, "job": "", "worst": None, "lag_s": lag if isinstance(lag, (int, float)) else None}
        line["memory_bytes"] = whole(node.get("memory_bytes")) or line["memory_bytes"]
        own = ended.get(tier, {})
        line["accuracy"] = (own.get("accuracy_by_device") or own.get("value_by_device") or {}).get(str(called))
        if tier and line["memory_bytes"] is None:
            line["memory_bytes"] = fleet[tier].train_memory_bytes or None
    for row in rows:
        for index, job in named(row.get("replanned")).items():
            if index < len(found):
                found[index]["job"] = str(job)
        worst = row.get("worst")
        if isinstance(worst, Mapping) and (_share(worst.get("accuracy")) or _finite(worst.get("value"))):
            (index,) = wholes([worst.get("device")]) or [len(found)]
            if index < len(found):
                found[index]["worst"] = {"accuracy": value_in(worst), "round": row["round"]}
    for line in found:
        line["device"] = names[line["device"]] if line["device"] < len(names) else line["device"]
    return found


def _count(experiment: Experiment | None, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many devices train; a natural partition has as many as people, which only the lines of metrics say."""
    asked = (training_devices(experiment.fleet) or experiment.data.devices) if experiment else 0
    if asked:
        return asked
    kinds = ("faults", "refused", "aside", "absent")
    names = [index for row in rows for index in (*wholes(row.get("asked")), *_names(row, kinds))]
    answered = (whole(row.get("devices")) + len(_names(row, ("faults", "refused"))) for row in rows)
    return min(max([0, *answered, *(index + 1 for index in names)]), _MOST)


_MOST = 100_000  # devices that a damaged line may make believe in


def _names(row: Mapping[str, Any], kinds: Sequence[str]) -> list[int]:
    return [index for kind in kinds for index in named(row.get(kind))]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1
