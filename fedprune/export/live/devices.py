"""What the lines of metrics say of each device: what it last did, how it failed, what memory it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedprune.experiment import Experiment, training_devices


def devices(
    experiment: Experiment | None, rows: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """A line for each device that trains, in order.

    Lines of metrics name devices that failed, refused, or do worst. Of others they only count how many answered, so
    ``phase`` and ``round`` are the last in which a device is named, or in which as many answered as there are.
    ``worst`` is its accuracy and the round when it last did worst of all; ``accuracy`` its own tier's, at the end.
    """
    found = {index: _blank(index) for index in range(_count(experiment, rows))}
    fleet = experiment.fleet if experiment else {}
    tiers = [name for name, tier in fleet.items() if tier.trains for _ in range(tier.devices)]
    for index, name in enumerate(tiers[: len(found)]):
        found[index] |= {"tier": name, "memory_bytes": fleet[name].train_memory_bytes or None}
    for row in rows:
        faults, refused, worst = _named(row.get("faults")), _named(row.get("refused")), row.get("worst")
        everyone = _whole(row.get("devices")) + len(faults) + len(refused) == len(found)
        at = {"phase": row["phase"], "round": row["round"]}
        for index, line in found.items():
            if index in faults:
                line |= {**at, "word": "failed", "faults": line["faults"] + 1, "last_fault": str(faults[index])}
            elif index in refused:
                said = refused[index] if isinstance(refused[index], Mapping) else {}
                memory = _whole(said.get("memory_bytes")) or line["memory_bytes"]
                needs = _whole(said.get("refused")) or None
                line |= {**at, "word": "refused", "refusals": line["refusals"] + 1}
                line |= {"memory_bytes": memory, "needs_bytes": needs}
            elif everyone:
                line |= {**at, "word": "answered"}
        for index, job in _named(row.get("replanned")).items():
            if index in found:
                found[index]["job"] = str(job)
        if isinstance(worst, Mapping) and worst.get("device") in found and _share(worst.get("accuracy")):
            found[worst["device"]]["worst"] = {"accuracy": worst["accuracy"], "round": row["round"]}
    ended = (result or {}).get("tiers") or {}
    for index, line in found.items():
        line["accuracy"] = ended.get(line["tier"], {}).get("accuracy_by_device", {}).get(str(index))
    return list(found.values())


def _blank(index: int) -> dict[str, Any]:
    return {
        "device": index, "tier": "", "phase": "", "round": None, "word": "", "faults": 0, "last_fault": "",
        "refusals": 0, "needs_bytes": None, "memory_bytes": None, "job": "", "worst": None, "accuracy": None,
    }  # fmt: skip


def _count(experiment: Experiment | None, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many devices train; a natural partition has as many as people, which only the lines of metrics say."""
    asked = (training_devices(experiment.fleet) or experiment.data.devices) if experiment else 0
    if asked:
        return asked
    names = [index for row in rows for key in ("faults", "refused") for index in _named(row.get(key))]
    answered = (
        _whole(row.get("devices")) + len(_named(row.get("faults"))) + len(_named(row.get("refused"))) for row in rows
    )
    return min(max([0, *answered, *(index + 1 for index in names)]), _MOST)


_MOST = 100_000  # devices that a damaged line may make believe in


def _named(value: object) -> dict[int, Any]:
    """Device -> what is said of it; devices are texts in JSON."""
    if not isinstance(value, Mapping):
        return {}
    return {int(key): said for key, said in value.items() if isinstance(key, str) and key.isdecimal()}


def _whole(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1
