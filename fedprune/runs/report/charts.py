"""Charts of a run as inline SVG: accuracy or another metric, bytes and densities."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fedprune.tasks import Metric, value_in

_INK, _PALE = "#1f2937", "#d1d5db"
_ONE, _TWO, _THREE = "#2563eb", "#ea580c", "#64748b"
_SEVERAL = (_ONE, "#16a34a", "#9333ea", "#0891b2", "#ca8a04", "#db2777")

# light and dark, so that they differ to every eye
_WORDS = {
    "answered": "#86efac", "late": "#f59e0b", "failed": "#b91c1c", "refused": "#7e22ce", "aside": "#0e7490",
    "absent": "#cbd5e1",
}  # fmt: skip


def judged(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """The metric in tests of the global model or of each of its parts, and on devices while they train, by round."""
    with axes_of("round", metric.label) as (axes, svg):
        parts = list(dict.fromkeys(row.get("part", "") for row in rows if row["phase"] == "evaluate"))
        lines = [("train", "", "devices, while training", _PALE, "-")]
        lines += [
            ("evaluate", part, f"test, {part}" if part else "test", _SEVERAL[index % len(_SEVERAL)], "o-")
            for index, part in enumerate(parts)
        ]
        for phase, part, label, colour, style in lines:
            points = [
                (row["round"], metric.scaled(value))
                for row in rows
                if row["phase"] == phase and row.get("part", "") == part and (value := value_in(row)) is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=3.5)
        for row in rows:
            if row["phase"] == "top_gradients":
                axes.axvline(row["round"], color=_TWO, linewidth=0.8, linestyle=":", zorder=0)
        axes.plot([], [], ":", color=_TWO, label="masks change")
        axes.legend(frameon=False)
    return svg[0]


def traffic(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bytes up and down by round, all devices and phases together."""
    rounds = sorted({row["round"] for row in rows})
    with axes_of("round", "KB, all devices") as (axes, svg):
        for key, label, colour, shift in (
            ("bytes_down", "to devices", _THREE, -0.2),
            ("bytes_up", "from devices", _ONE, 0.2),
        ):
            heights = [sum(row.get(key) or 0 for row in rows if row["round"] == r) / 1e3 for r in rounds]
            axes.bar([r + shift for r in rounds], heights, width=0.4, color=colour, label=label)
        axes.legend(frameon=False)
    return svg[0]


def densities(before: Mapping[str, float], after: Mapping[str, float], moved: Mapping[str, float]) -> str:
    """Density of each layer when training began and at the end, and the share of kept weights that moved between."""
    names = list(after)
    with axes_of("", "%", width=max(6.4, 0.55 * len(names))) as (axes, svg):
        for values, label, colour, shift in (
            (before, "density at the start", _PALE, -0.27),
            (after, "density at the end", _ONE, 0.0),
            (moved, "kept weights that moved", _TWO, 0.27),
        ):
            axes.bar(
                [i + shift for i in range(len(names))],
                [100 * values.get(n, 0) for n in names],
                width=0.27,
                color=colour,
                label=label,
            )
        axes.set_xticks(range(len(names)), [n.removesuffix(".weight") for n in names], rotation=40, ha="right")
        axes.legend(frameon=False)
    return svg[0]


def sizes(forms: Mapping[str, int]) -> str:
    """Bytes of the model in every form."""
    names = list(forms)[::-1]
    with axes_of("KB", "", height=0.42 * len(names) + 0.9) as (axes, svg):
        axes.barh(names, [forms[name] / 1e3 for name in names], color=_ONE)
        for i, name in enumerate(names):
            axes.annotate(f" {forms[name] / 1e3:,.1f}", (forms[name] / 1e3, i), va="center", color=_INK, fontsize=9)
        axes.margins(x=0.15)
    return svg[0]


def strip(devices: Mapping[str, Mapping[int, str]]) -> str:
    """What became of each device in each round, of ``attendance.WORDS``; blank where it was not asked."""
    names, said = list(devices), [word for word in _WORDS if any(word in each.values() for each in devices.values())]
    with axes_of("round", "device", height=0.2 * len(names) + 1.2) as (axes, svg):
        for word in said:
            for row, name in enumerate(names):
                rounds = sorted(round for round, found in devices[name].items() if found == word)
                if rounds:
                    axes.broken_barh(_runs(rounds), (row - 0.4, 0.8), color=_WORDS[word], linewidth=0)
        axes.set_yticks(range(len(names)), [str(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)  # the first on top
        for word in said:
            axes.plot([], [], "s", color=_WORDS[word], label=word)
        axes.legend(
            frameon=False, ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0), handlelength=1.0, columnspacing=1.2
        )
    return svg[0]


def _runs(rounds: Sequence[int]) -> list[tuple[float, int]]:
    """(left end, length) of each run of rounds that follow each other: one bar for many."""
    found: list[tuple[float, int]] = []
    for round in rounds:
        if found and found[-1][0] + found[-1][1] == round - 0.5:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((round - 0.5, 1))
    return found


@contextmanager
def axes_of(x: str, y: str, *, width: float = 6.4, height: float = 3.2) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; the list holds the SVG once the block ends. Along "round" whole numbers are marked."""
    import matplotlib
    from matplotlib import ticker
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg: list[str] = []
    # a fixed salt and no date: the same run gives the same page
    with matplotlib.rc_context({"svg.hashsalt": "fedprune", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        if x == "round":
            axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        yield axes, svg
        file = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(file, metadata={"Date": None})  # savefig draws twice
    svg.append(re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL))
