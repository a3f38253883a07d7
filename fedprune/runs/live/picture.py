"""What a run looks like by now: one value of plain data, from the lines of metrics there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fedprune.experiment import Experiment
from fedprune.runs.live.devices import devices
from fedprune.runs.report.attendance import away, strangers, whole, wholes
from fedprune.runs.report.warned import diverged, warned
from fedprune.tasks import ACCURACY, Metric

_LEAST_QUIET_S = 60.0
_QUIET_PHASES = 5  # as many times the longest phase so far without a line is longer than any phase should take


class Seen(NamedTuple):
    """What a run's folder holds by now; a run that has not begun is all defaults."""

    experiment: Experiment | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    """Lines of metrics; each has a whole ``round`` and a text ``phase``, all else may be missing or wrong."""
    result: Mapping[str, Any] | None = None
    """result.json, once the run has ended."""
    layers: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """Part -> layer -> density, of the last complete round; the part ``""`` is the whole model."""
    nodes: Mapping[int | str, Mapping[str, Any]] = MappingProxyType({})
    """Device -> what its node said last, where it is a real one: ``lag_s`` until it was there, ``memory_bytes``."""
    written_s: float | None = None
    """When the last line was written, in seconds since 1970."""


def picture(seen: Seen, now_s: float) -> dict[str, Any]:
    """The run at the time ``now_s`` (seconds since 1970), as JSON can say it; numbers that are not finite are None.

    ``state`` is waiting, preparing, running, quiet, ending or finished, and ``said`` a sentence for it. ``rounds`` has
    a line a round, with an ``accuracy``, or a ``value`` where ``metric`` is
    another; ``parts`` and ``test`` go by part of the model, where ``""`` is the whole. ``device_seconds``, where
    devices say them, are those that the slowest of each phase computed for.
    """
    experiment, rows = seen.experiment, seen.rows
    quiet_s = max(0.0, now_s - seen.written_s) if seen.written_s is not None else None
    metric = _metric(rows)
    rounds = _rounds(rows, metric != ACCURACY)
    phases: dict[str, dict[str, float]] = {}
    for row in rows:
        sums = phases.setdefault(row["phase"], {"seconds": 0.0, "bytes_up": 0, "bytes_down": 0, "retried": 0})
        for key in ("seconds", "bytes_up", "bytes_down", "retried", "device_seconds"):
            if number(row.get(key)) is not None:
                sums[key] = sums.get(key, 0.0) + row[key]
    parts: dict[str, dict[str, Any]] = {}
    for each in rounds:
        for part, test in each["test"].items():
            parts[part] = {**test, "round": each["round"]}
    state, said = _state(seen, quiet_s)
    said = " ".join([said, *(f"Warning: {exploded}." for exploded in diverged(rows)[:1])])
    return {
        "name": experiment.name if experiment else "",
        "subtitle": _subtitle(experiment),
        "state": state,
        "said": said,
        "quiet_s": None if quiet_s is None else round(quiet_s, 1),
        "written_s": seen.written_s,
        "round": rows[-1]["round"] if rows else 0,
        "rounds_asked": experiment.rounds if experiment else 0,
        "phase": rows[-1]["phase"] if rows else "",
        "density": rounds[-1]["density"] if rounds else None,
        "metric": metric._asdict(),
        "parts": parts,
        "rounds": rounds,
        "phases": phases,
        "devices": devices(experiment, rows, seen.result, seen.nodes),
        "strangers": next((strangers(row) for row in reversed(rows) if away(row) is not None), {}),
        "layers": {part: dict(densities) for part, densities in seen.layers.items()},
    }


def _metric(rows: Sequence[Mapping[str, Any]]) -> Metric:
    """What values are of; what a damaged line says of it is not believed."""
    for row in rows:
        said = row.get("metric")
        if isinstance(said, Mapping) and [type(said.get(key)) for key in Metric._fields] == [str, str, bool]:
            return Metric(said["name"], said["unit"], said["higher"])
    return ACCURACY


def number(value: object) -> float | int | None:
    """A finite number as it is; None for all else."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _rounds(rows: Iterable[Mapping[str, Any]], metric: bool) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in rows:
        line = found.setdefault(
            row["round"],
            {
                "round": row["round"], "phases": [], "train": None, "test": {}, "density": None, "seconds": 0.0,
                "bytes_up": 0, "bytes_down": 0, "faults": 0, "refused": 0, "late": 0, "retried": 0,
                "aside": 0, "absent": 0, "device_seconds": None, "diverged": "",
            },
        )  # fmt: skip
        line["phases"].append(row["phase"])
        for key in ("seconds", "bytes_up", "bytes_down"):
            line[key] += number(row.get(key)) or 0
        for key in ("faults", "refused"):
            line[key] += len(said) if isinstance(said := row.get(key), Mapping) else 0
        line["late"] += len(wholes(row.get("late")))
        line["retried"] += whole(row.get("retried"))
        for key in ("aside", "absent"):  # each line says it again
            line[key] = max(line[key], len(said) if isinstance(said := row.get(key), Mapping) else 0)
        if number(row.get("device_seconds")) is not None:
            line["device_seconds"] = (line["device_seconds"] or 0.0) + row["device_seconds"]
        if said := diverged([row]):
            line["diverged"] = "; ".join(filter(None, (line["diverged"], *said)))
        values = {key: number(row.get(key)) for key in ("value" if metric else "accuracy", "loss", "density")}
        if line["density"] is None or (row["phase"] == "evaluate" and not line["test"]):
            line["density"] = values["density"]  # of the whole or the largest part, which is tested first
        if row["phase"] == "evaluate":
            line["test"][str(row.get("part") or "")] = values
        elif row["phase"] == "train":
            line["train"] = values
    return [found[key] for key in sorted(found)]


def _state(seen: Seen, quiet_s: float | None) -> tuple[str, str]:
    experiment, rows = seen.experiment, seen.rows
    if experiment is None:
        return "waiting", "The run has not begun: its folder is not there yet, or is empty."
    if seen.result is not None:
        done = "Finished: the model is exported and checked; report.html in the run's folder has all of it."
        return "finished", " ".join([done, *(f"Warning: {said}." for said in warned(seen.result))])
    longest = max((number(row.get("seconds")) or 0.0 for row in rows), default=0.0)
    if quiet_s is not None and quiet_s > max(_LEAST_QUIET_S, _QUIET_PHASES * longest):
        return (
            "quiet",
            "Nothing new for long. If its process is gone, go on with: fedprune resume, and its folder.",
        )
    if not rows:
        return "preparing", "Preparing: reading data, pretraining on public examples, meeting the devices."
    if rows[-1]["round"] >= experiment.rounds and rows[-1]["phase"] not in ("train", "top_gradients"):
        return "ending", "The last round is trained; its test ends, then the model is exported and checked."
    return "running", "Running."


def _subtitle(experiment: Experiment | None) -> str:
    if experiment is None:
        return ""
    parts = (str(experiment.method.get("name", "")), experiment.model, experiment.data.name, f"seed {experiment.seed}")
    return " · ".join(filter(None, parts))
