"""Pictures of a comparison as inline SVG: by density, by round, and against each cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fedprune.runs.compare.summary import Line
from fedprune.runs.report.charts import axes_of
from fedprune.tasks import Metric

_COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#ca8a04", "#db2777", "#1f2937")
_PALE = "#cbd5e1"
_MOST = len(_COLOURS)  # methods that are told apart by colour; all others are pale


def by_density(lines: Sequence[Line], first: Sequence[str]) -> str:
    """The metric by density, of each method its mean and a standard deviation either way; ``first`` are coloured."""
    metric = lines[0].metric
    with axes_of("density", metric.label, width=8.0, height=4.2) as (axes, svg):
        for method in _pale_first(lines, first):
            own = sorted((line for line in lines if line.method == method), key=lambda line: line.density)
            x, y = [line.density for line in own], [metric.scaled(line.final.mean) for line in own]
            spread = [metric.scaled(line.final.spread) for line in own]
            if method in first[:_MOST]:
                colour = _COLOURS[first.index(method)]
                axes.errorbar(x, y, spread, marker="o", markersize=4, capsize=2, color=colour, label=method)
            else:
                axes.plot(x, y, "o-", markersize=2, linewidth=0.8, color=_PALE, zorder=0)
        axes.set_xscale("log")
        axes.set_xticks(
            sorted({line.density for line in lines}), [f"{d:g}" for d in sorted({x.density for x in lines})]
        )
        axes.minorticks_off()
        _legend(axes)
    return svg[0]


def curves(lines: Sequence[Line], first: Sequence[str]) -> str:
    """The metric by round at one density, each method's mean."""
    metric = lines[0].metric
    with axes_of("round", metric.label, width=8.0, height=3.6) as (axes, svg):
        for method in _pale_first(lines, first):
            for line in lines:
                if line.method == method:
                    x, y = [round for round, _ in line.curve], [metric.scaled(value) for _, value in line.curve]
                    if method in first[:_MOST]:
                        axes.plot(x, y, color=_COLOURS[first.index(method)], label=method, linewidth=1.4)
                    else:
                        axes.plot(x, y, color=_PALE, linewidth=0.8, zorder=0)
        _legend(axes)
    return svg[0]


def pareto(points: Sequence[tuple[str, float, float]], cost: str, metric: Metric) -> str:
    """(name, cost, value as it is drawn) of every method and density; those that none beats in both are named."""
    best = front([(at, value if metric.higher else -value) for _, at, value in points])
    with axes_of(cost, metric.label, width=8.0, height=3.6) as (axes, svg):
        axes.scatter([at for _, at, _ in points], [value for *_, value in points], s=12, color=_PALE)
        on = sorted(point for point in ((points[i][1], points[i][2], points[i][0]) for i in best))
        axes.step([at for at, _, _ in on], [value for _, value, _ in on], where="post", color=_COLOURS[0], linewidth=1)
        axes.scatter([at for at, _, _ in on], [value for _, value, _ in on], s=18, color=_COLOURS[0], zorder=3)
        for at, value, name in on:
            axes.annotate(name, (at, value), fontsize=7, xytext=(3, -9), textcoords="offset points")
        axes.set_xscale("log")
    return svg[0]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, value) points of which no other costs at most as much and is worth more."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept, best = [], float("-inf")
    for i in order:
        if points[i][1] > best:
            kept.append(i)
            best = points[i][1]
    return kept


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, ncols=2)


def _pale_first(lines: Iterable[Line], first: Sequence[str]) -> list[str]:
    methods = list(dict.fromkeys(line.method for line in lines))
    return [m for m in methods if m not in first[:_MOST]] + [m for m in first[:_MOST] if m in methods]
