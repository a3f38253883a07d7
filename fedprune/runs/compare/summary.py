"""What the cells of a comparison come to: means, spreads, and differences seed by seed with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

from fedprune.runs.compare.asked import Comparison, reference
from fedprune.runs.compare.cell import ACCOUNTED, late
from fedprune.runs.compare.cells import Cell
from fedprune.runs.compare.running import FAILED
from fedprune.tasks import Metric, metric_in


class Mean(NamedTuple):
    """A quantity over seeds."""

    mean: float
    spread: float
    """Standard deviation; 0 of one seed."""
    seeds: int


class Difference(NamedTuple):
    """How much better a method does than the one that all are compared with, on the same seeds."""

    mean: float
    half: float
    """Of its interval of 95 % (Student's t over the seeds): so much lies to either side; infinite with one seed."""
    seeds: int


class Line(NamedTuple):
    """A method at a density in one experiment. Values of the metric are as the task has them, in [0, 1] of accuracy."""

    experiment: str
    method: str
    density: float
    metric: Metric
    kept: Mean
    """Density that the models ended with."""
    final: Mean
    """After the last round."""
    late: Mean
    """Mean of the last ten evaluations."""
    best: Mean
    worst: Mean | None
    """The worst device's."""
    device: Mean | None
    """Mean over devices, each alike."""
    against: Difference | None
    """How much better ``final`` is than the reference's; None of the reference, and where it has no cell beside."""
    reached: Mean | None
    """The first round whose test reaches the experiment's target, of the seeds that do."""
    accounted: Mapping[str, float]
    """By formula, of the fullest round of the device with the most examples: flops, training_bytes, link_bytes."""
    measured: Mapping[str, float]
    """bytes_up and bytes_down of all messages; of seed 0: train_seconds, peak_bytes, and sizes of files and chips."""
    curve: Sequence[tuple[int, float]]
    """Mean by round."""
    tiers: Mapping[str, Mean]
    """Of an experiment with a fleet, ``final`` of each tier's model."""
    failed: Sequence[str]
    """Why seeds are missing."""
    unmet: Sequence[str]
    """What experiment or method ask for and do not get."""


def lines(asked: Comparison, found: Mapping[Cell, Mapping[str, Any]]) -> list[Line]:
    """A line a method and density, in the order of the table; what has no complete seed has none."""
    groups: dict[tuple[str, str, float], dict[int, Mapping[str, Any]]] = {}
    for cell, told in found.items():
        groups.setdefault((cell.experiment, cell.method, cell.density), {})[cell.seed] = told
    finals = {
        key: {seed: _final(told) for seed, told in each.items() if FAILED not in told} for key, each in groups.items()
    }
    base, made = reference(asked), []
    for (experiment, method, density), each in groups.items():
        good = {seed: told for seed, told in each.items() if FAILED not in told and told["curve"]}
        if not good:
            continue
        others = finals.get((experiment, base, density), {}) if method != base else {}
        target = asked.experiments[experiment].target
        seeds = [good[seed] for seed in sorted(good)]
        metric = metric_in(seeds[0])
        made.append(
            Line(
                experiment,
                method,
                density,
                metric,
                mean([one["density"] for one in seeds]),
                mean([_final(one) for one in seeds]),
                mean([late(one) for one in seeds]),
                mean([(max if metric.higher else min)(value for _, value in one["curve"]) for one in seeds]),
                _known([one.get("worst") for one in seeds]),
                _known([one.get("mean_device") for one in seeds]),
                _gain(metric, {seed: _final(one) for seed, one in good.items()}, others),
                _known([_reached(one["curve"], target, metric) for one in seeds]) if target else None,
                {
                    key: statistics.mean(one[key] for one in seeds)
                    for key in ACCOUNTED
                    if all(key in one for one in seeds)
                },
                _measured(seeds),
                _curve(seeds),
                _tiers(seeds),
                [f"seed {seed}: {one[FAILED]}" for seed, one in each.items() if FAILED in one],
                list(dict.fromkeys(text for one in seeds for text in one.get("unmet", ()))),
            )
        )
    return made


def unmet(lines: Sequence[Line]) -> list[str]:
    """What is asked for and not had, each once, with the method that asks."""
    return list(dict.fromkeys(f"{line.experiment}, {line.method}: {text}" for line in lines for text in line.unmet))


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard deviation."""
    return Mean(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))


def difference(own: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """The mean of ``own`` less ``others`` over the seeds of both, with its interval; None where they share none."""
    apart = [own[seed] - others[seed] for seed in sorted(own.keys() & others.keys())]
    if not apart:
        return None
    if len(apart) < 2:
        return Difference(apart[0], float("inf"), 1)
    from scipy import stats

    half = float(stats.t.ppf(0.975, len(apart) - 1)) * statistics.stdev(apart) / sqrt(len(apart))
    return Difference(statistics.mean(apart), half, len(apart))


def _gain(metric: Metric, own: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    apart = difference(own, others)
    return apart if apart is None or metric.higher else apart._replace(mean=-apart.mean)


def _final(told: Mapping[str, Any]) -> float:
    return float(told["curve"][-1][1])


def _known(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _reached(curve: Sequence[Sequence[float]], target: float, metric: Metric) -> float | None:
    return next((round for round, value in curve if value == target or metric.better(value, target)), None)


def _curve(told: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    by_round: dict[int, list[float]] = {}
    for one in told:
        for round, value in one["curve"]:
            by_round.setdefault(round, []).append(value)
    return [(round, statistics.mean(values)) for round, values in sorted(by_round.items())]


def _tiers(told: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    by_tier: dict[str, list[float]] = {}
    for one in told:
        for tier, value in one.get("tiers", {}).items():
            by_tier.setdefault(tier, []).append(value)
    return {tier: mean(values) for tier, values in by_tier.items()}


def _measured(told: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {key: statistics.mean(one[key] for one in told) for key in ("bytes_up", "bytes_down", "seconds")}
    first = told[0]
    found |= {key: value for key, value in first.get("device", {}).items() if key != "why"}
    files = first.get("files", {})
    for key, form in FORMS.items():
        if (size := (files.get("bytes") or {}).get(form)) is not None:
            found[key] = size
    chip = first.get("chip", {}).get("C99, smallest", {})
    return found | {f"m4_{key}": value for key, value in chip.items() if value is not None}


FORMS = {
    "tflite_bytes": "int8 .tflite, compacted",
    "gzip_bytes": "int8 .tflite, compacted, gzip",
    "micro_bytes": "int8, zeros left out, for microcontrollers",
}
"""Files whose sizes a table shows: key -> the form's name in result.json."""
