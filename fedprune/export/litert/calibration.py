"""Calibration: from examples to the range of every tensor that int8 has to hold, by one of several rules."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fedprune.graph import Graph
from fedprune.int8 import affine
from fedprune.training import evidence
from fedprune.types import FloatTensor, Tensor

Ranges = Mapping[str, tuple[float, float]]
"""Tensor -> its smallest and largest value; zero is always within."""


class Histogram(NamedTuple):
    """How often a tensor took which values."""

    low: float
    high: float
    counts: Tensor
    """Of equal intervals between ``low`` and ``high``, the extremes."""


Rule = Callable[[Histogram], tuple[float, float]]
"""The values of a tensor -> the range that its grid is to cover; what lies beyond is saturated."""

_FRACTIONS = np.arange(32, 0, -1) / 32  # of an extreme, the whole first: it wins a tie


def extremes(values: Histogram) -> tuple[float, float]:
    """All of them: nothing is saturated."""
    return values.low, values.high


def percentile(percent: float) -> Rule:
    """The rule that leaves out the outermost values, at most ``100 - percent`` % of all at each end."""

    def rule(values: Histogram) -> tuple[float, float]:
        spare = (1 - percent / 100) * values.counts.sum()
        edges = np.linspace(values.low, values.high, len(values.counts) + 1)
        # the first and the last interval of which some may not be left out
        first = int(np.argmax(np.cumsum(values.counts) > spare))
        last = len(values.counts) - int(np.argmax(np.cumsum(values.counts[::-1]) > spare))
        return float(edges[first]), float(edges[last])

    return rule


def least_squares(values: Histogram) -> tuple[float, float]:
    """The range whose grid has the least ``Σ (x - q(x))²``, each end a multiple of a 32nd of the extreme."""
    width = (values.high - values.low) / len(values.counts)
    seen = np.flatnonzero(values.counts)
    x, count = values.low + (seen + 0.5) * width, values.counts[seen]

    def error(low: float, high: float) -> float:
        scale, zero = affine(low, high)
        rounded = (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale
        return float(count @ (rounded - x) ** 2)

    ranges = [(low, high) for low in _towards_zero(values.low) for high in _towards_zero(values.high)]
    return min(ranges, key=lambda ends: error(*ends))


def _towards_zero(extreme: float) -> list[float]:
    return [float(extreme * fraction) for fraction in _FRACTIONS] if extreme else [0.0]


RULES: Mapping[str, Rule] = {"minmax": extremes, "percentile": percentile(99.99), "mse": least_squares}
"""By the names that an experiment gives them."""


def calibrate(
    graph: Graph, inputs: Tensor, *, by: Rule = extremes, batch_size: int = 64
) -> dict[str, tuple[float, float]]:
    """Return the range of every tensor over ``inputs`` ``(n, C, H, W)`` or ``(n, C, L)`` by a rule, zero included.

    The names are those of ``graph``: calibrate the graph that will be written. Every rule but the true extremes takes a
    second pass. Raises ``ValueError`` for no inputs and for values that are not finite.
    """
    return calibrate_by({"": by}, graph, inputs, batch_size=batch_size)[""]


def calibrate_by(
    rules: Mapping[str, Rule], graph: Graph, inputs: Tensor, *, batch_size: int = 64
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return what `calibrate` does by each of several rules, of the same two passes."""
    if len(inputs) == 0:
        raise ValueError("calibration needs at least one input")

    def batches() -> Iterator[Tensor]:
        return (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))

    found = named(graph, evidence.ranges(graph, batches()))
    seconds = any(rule is not extremes for rule in rules.values())
    counts = evidence.histograms(graph, batches(), found) if seconds else {}

    def ruled(rule: Rule) -> dict[str, tuple[float, float]]:
        ends = {name: rule(Histogram(*found[name], each)) for name, each in counts.items()}
        return found | {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ends.items()}

    return {name: found if rule is extremes else ruled(rule) for name, rule in rules.items()}


def named(graph: Graph, ranges: FloatTensor) -> dict[str, tuple[float, float]]:
    """Return the (tensors, 2) ranges that ``evidence.ranges`` measured on ``graph``, by name.

    Raises ``ValueError`` where they are not finite, or are another graph's.
    """
    if ranges.shape != (len(graph.shapes), 2):
        raise ValueError(f"ranges of {len(ranges)} tensors, but the graph has {len(graph.shapes)}")
    for name, ends in zip(graph.shapes, ranges, strict=True):
        if not np.isfinite(ends).all():
            raise ValueError(f"tensor {name} is not finite on the calibration inputs")
    return {name: (float(low), float(high)) for name, (low, high) in zip(graph.shapes, ranges, strict=True)}
