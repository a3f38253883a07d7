"""One page of a comparison: how methods do, what each costs by formula, and what each was measured to cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import nan

from fedprune.runs.compare import charts
from fedprune.runs.compare.asked import Comparison, reference
from fedprune.runs.compare.running import Rates
from fedprune.runs.compare.summary import Difference, Line, Mean, unmet
from fedprune.runs.report.style import STYLE, figure, table
from fedprune.tasks import Metric

ACCOUNTED = {
    "flops": "training FLOPs a round",
    "training_bytes": "weights and gradients, bytes",
    "link_bytes": "bytes of a model one way",
}
MEASURED = {
    "bytes_up": "bytes up, all devices and rounds",
    "bytes_down": "bytes down",
    "train_seconds": "device, processor seconds a round",
    "peak_bytes": "device's process, peak bytes",
    "tflite_bytes": ".tflite, int8",
    "gzip_bytes": ".tflite, gzip",
    "m4_flash_bytes": "C99 on a Cortex-M4, flash",
    "m4_ram_bytes": "RAM",
    "m4_instructions": "instructions",
}
_FORMATS = {"train_seconds": ",.3g"}


def page(name: str, asked: Comparison, lines: Sequence[Line], rates: Rates) -> str:
    """One HTML page that needs nothing beside it."""
    body = [f"<h1>{escape(name)}</h1>", f"<p class=dim>{escape(_subtitle(asked, lines))}</p>"]
    for experiment in asked.experiments:
        own = [line for line in lines if line.experiment == experiment]
        if own:
            body += _experiment(experiment, asked, own, rates.get(experiment, {}))
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(name)} · fedprune</title>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = STYLE.replace("60rem", "76rem")
    return f"{head}{viewport}<style>{style}</style>\n" + "\n".join(body) + "\n</html>\n"


def _subtitle(asked: Comparison, lines: Sequence[Line]) -> str:
    methods, seeds = {line.method for line in lines}, max((line.final.seeds for line in lines), default=0)
    return (
        f"{len(methods)} methods; mean ± standard deviation over {seeds} seeds at most. Results are of the last round, "
        "on test parts that nothing is trained on or chosen by. Differences are how much better a method is than "
        f"{reference(asked)} on the same seeds, with their 95 % interval (Student's t)."
    )


def _experiment(
    name: str, asked: Comparison, lines: Sequence[Line], rates: Mapping[str, Mapping[float, float]]
) -> list[str]:
    densities = sorted({line.density for line in lines}, reverse=True)
    body = [f"<h2>{escape(name)}</h2>"]
    least = [line for line in lines if line.density == min(densities)]
    first = [line.method for line in ranked(least)[:7]]
    base = reference(asked)
    first = [*first, *([base] if base not in first else [])]
    if len(densities) > 1:
        body.append(
            figure(charts.by_density(lines, first), "The best at the lowest density, and the reference, in colour.")
        )
    target = asked.experiments[name].target
    for density in densities:
        own = ranked([line for line in lines if line.density == density])
        body += [f"<h3>density {density:g}</h3>", _accuracies(own, target)]
        body.append(figure(charts.curves(own, first), f"Test {own[0].metric.name} by round, mean over seeds."))
    body += ["<h3>Accounted</h3>", f"<p class=dim>{escape(_HOW)}</p>", _costs(lines, ACCOUNTED)]
    body += [_pareto(lines, key, label, "accounted") for key, label in ACCOUNTED.items()]
    body += ["<h3>Measured</h3>", f"<p class=dim>{escape(_MEASURED_HOW)}</p>", _costs(lines, MEASURED)]
    body += [_pareto(lines, key, label, "measured") for key, label in MEASURED.items()]
    if rates:
        body += ["<h3>Learning rates</h3>", _tuned(asked, name, rates)]
    failed = [f"{line.method}, density {line.density:g}, {why}" for line in lines for why in line.failed]
    return body + [f"<p class=warning>{escape('; '.join(said))}</p>" for said in (failed, unmet(lines)) if said]


def _tuned(asked: Comparison, name: str, rates: Mapping[str, Mapping[float, float]]) -> str:
    tuning = asked.tuning
    runs = asked.experiments[name].trials or tuning.seeds
    how = (
        f"Of {', '.join(f'{rate:g}' for rate in tuning.learning_rate)} the one whose last ten tests on development "
        f"parts are best{f' in the mean of {runs} runs' * (runs > 1)}; their seeds are none of the table's. A density "
        "that was not tried has what the nearest one chose."
    )
    tried = sorted({density for each in rates.values() for density in each if density < 1}, reverse=True) or [1.0]
    head = ["method", *(f"density {density:g}" for density in tried)]
    body = [
        [method, *(f"{each.get(density, each.get(1.0, nan)):g}" for density in tried)] for method, each in rates.items()
    ]
    return f'<p class=dim>{escape(how)}</p><div class="wide">{table(head, body)}</div>'


_HOW = (
    "By the conventions of papers, of the fullest round of the device with the most examples: a multiply-add is two "
    "FLOPs, a backward pass two forward ones; memory is weights and gradients, without activations. Nothing here was "
    "measured."
)
_MEASURED_HOW = (
    "Bytes are those of Flower's messages, the final check of exported files left out, mean over seeds. All else is of "
    "seed 0: a device's process that answered the last messages again, with its own examples alone; the exported "
    "files; and the C sources on an emulated Cortex-M4."
)


def _accuracies(lines: Sequence[Line], target: float) -> str:
    metric = lines[0].metric
    tiers = list(dict.fromkeys(tier for line in lines for tier in line.tiers))
    head = ["method", "kept", metric.label, "seeds", "difference", "last ten", "best", "worst device", "mean device"]
    head += [f"of {tier}" for tier in tiers]
    head += [f"rounds to {metric.scaled(target):g} {metric.unit}".rstrip()] if target else []
    body = [
        [
            line.method, f"{line.kept.mean:.4f}", spread(line.final, metric), line.final.seeds,
            interval(line.against, metric), metric.plain(line.late.mean), metric.plain(line.best.mean),
            spread(line.worst, metric), spread(line.device, metric),
            *(spread(line.tiers.get(tier), metric) for tier in tiers),
            *([_rounds(line)] if target else []),
        ]
        for line in lines
    ]  # fmt: skip
    return f'<div class="wide">{table(head, body)}</div>'


def spread(value: Mean | None, metric: Metric) -> str:
    """A mean, in percent where it is a share, with a standard deviation where there are several seeds."""
    if value is None:
        return "–"
    return metric.plain(value.mean) + (f" ± {metric.plain(value.spread)}" if value.seeds > 1 else "")


def interval(value: Difference | None, metric: Metric) -> str:
    """How much better, in points where it is a share, with its interval."""
    if value is None:
        return ""
    sign = "-" if value.mean < 0 else "+"
    return sign + metric.plain(abs(value.mean)) + (f" ± {metric.plain(value.half)}" if value.seeds > 1 else "")


def _rounds(line: Line) -> str:
    if line.reached is None:
        return "never"
    few = line.reached.seeds < line.final.seeds
    return f"{line.reached.mean:.0f}" + (f" ({line.reached.seeds} of {line.final.seeds})" if few else "")


def _costs(lines: Sequence[Line], keys: Mapping[str, str]) -> str:
    body = []
    for line in sorted(lines, key=lambda line: (-line.density, line.method)):
        values = {**line.accounted, **line.measured}
        cells = [f"{values[key]:{_FORMATS.get(key, ',.0f')}}" if key in values else "–" for key in keys]
        body.append([line.method, f"{line.density:g}", line.metric.plain(line.final.mean), *cells])
    return f'<div class="wide">{table(["method", "density", lines[0].metric.label, *keys.values()], body)}</div>'


def _pareto(lines: Sequence[Line], key: str, label: str, kind: str) -> str:
    metric = lines[0].metric
    values = [(line, {**line.accounted, **line.measured}.get(key)) for line in lines]
    points = [
        (f"{line.method} {line.density:g}", float(at), metric.scaled(line.final.mean)) for line, at in values if at
    ]
    if len(points) < 2:
        return ""
    return figure(
        charts.pareto(points, label, metric),
        f"{metric.title} against what is {kind}; the blue ones are beaten by none.",
    )


def ranked(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: -line.final.mean if line.metric.higher else line.final.mean)
