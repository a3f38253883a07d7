"""The page itself: what a run ended in, first in numbers, then in charts, then line by line."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedprune.runs.report import charts
from fedprune.runs.report.attendance import faults
from fedprune.runs.report.devices import devices
from fedprune.runs.report.style import STYLE, figure, table
from fedprune.runs.report.warned import diverged, warned
from fedprune.tasks import Metric, agreement_in, metric_in, value_in


def page(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], layers: Mapping[str, Mapping[str, float]], asked: str
) -> str:
    """One HTML page that needs nothing beside it.

    ``result`` and ``rows`` are result.json and metrics.jsonl; ``layers`` holds before, after and moved (fractions by
    layer); ``asked`` is the experiment as text.
    """
    metric = metric_in(result)
    body = [
        f"<h1>{escape(result['name'])}</h1>",
        f"<p class=dim>{escape(_subtitle(result))}</p>",
        *(f'<p class="warning">{escape(said)}</p>' for said in [*warned(result), *diverged(rows)[:1]]),
        _tiles(result),
        *(["<h2>Tiers</h2>", _tiers(result["tiers"], metric)] if result.get("tiers") else []),
        f"<h2>{escape(metric.title)} by round</h2>",
        figure(
            charts.judged(rows, metric),
            "Over the test parts of all devices together; no test example is trained on or selected by.",
        ),
        "<h2>Density by layer</h2>",
        _densities(layers),
        "<h2>Bytes by round</h2>",
        figure(
            charts.traffic(rows),
            f"Content of Flower's messages: {_kb(result['bytes_up'])} up, {_kb(result['bytes_down'])} down in all.",
        ),
        "<h2>The model in every form</h2>",
        figure(
            charts.sizes(result["bytes"]),
            "Stock kernels store zeros, so a masked file is small only to download (gzip), or by channels that nothing "
            "needs any more and that are left out (compacted). C99 sources store none: their weights and tables are "
            "counted; all their flash, code and startup too, is predicted for a Cortex-M4. Files need a runtime.",
        ),
        "<h2>The exported file against torch</h2>",
        f"<p>{escape(result['no_export'])}</p>" if result.get("no_export") else _checks(result),
        *_noise(result),
        *_scratch(result, metric),
        devices(rows, result["devices"]),
        "<h2>Rounds</h2>",
        _rounds(rows, metric),
        "<h2>The experiment</h2>",
        f"<pre>{escape(asked)}</pre>",
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(result["name"])} · fedprune</title>'
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f"{head}{viewport}<style>{STYLE}</style>\n" + "\n".join(filter(None, body)) + "\n</html>\n"


def _subtitle(result: Mapping[str, Any]) -> str:
    parts = [result["method"], result["model"], result["data"], f"{result['devices']} devices"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return " · ".join([*parts, f"{result['rounds']} rounds", f"seed {result['seed']}", versions])


def _densities(layers: Mapping[str, Mapping[str, float]]) -> str:
    if not layers["after"]:
        return "<p>The model is dense.</p>"
    caption = (
        "Layers that are not shown are dense. Progressive pruning moves kept weights within a layer; its density stays."
    )
    return figure(charts.densities(**layers), caption)


def _tiers(tiers: Mapping[str, Mapping[str, Any]], metric: Metric) -> str:
    """One line a tier: its model, how it does, and what it takes of what it may."""
    named = (f"{metric.name}, torch", f"{metric.name}, int8")
    head = ("tier", "devices", "density", *named, "worst device", "flash", "arena", "flash in C99, about",
            "training memory")  # fmt: skip
    lines = [
        (
            name,
            tier["devices"],
            f"{tier['density']:.3f}",
            metric.text(value_in(tier, "float")),
            metric.text(value_in(tier, "int8")),
            _worst(tier["worst_device"], metric),
            _share(tier["flash_bytes"], tier["flash_bytes_allowed"]),
            _share(tier["arena_bytes"], tier["sram_bytes_allowed"]),
            _share(tier.get("c99_flash_bytes_predicted"), 0),
            _share(tier["train_memory_bytes_predicted"], tier["train_memory_bytes_allowed"]),
        )
        for name, tier in tiers.items()
    ]
    caption = (
        f"{metric.title} over the test parts of all devices together. Training memory is predicted, for a device's "
        "whole process; flash and arena are the exported model's. In C99, flash holds all code and no runtime is "
        "needed."
    )
    return f'<div class="wide">{table(head, lines)}</div><p class=dim>{escape(caption)}</p>'


def _worst(worst: Mapping[str, Any] | None, metric: Metric) -> str:
    return metric.text(None) if worst is None else f"{metric.text(value_in(worst))} (device {worst['device']})"


def _share(size: int | None, allowed: int) -> str:
    def form(count: int) -> str:
        return f"{count / 1e6:,.0f} MB" if count >= 1e7 else _kb(count)

    return (form(size) if size else "–") + (f" of {form(allowed)}" if allowed else "")


def _checks(result: Mapping[str, Any]) -> str:
    checks, metric, agreement = result["checks"], metric_in(result), agreement_in(result)
    names = {"litert_float": "LiteRT, float32", "litert_int8": "LiteRT, int8", "tflm": "TensorFlow Lite Micro, int8"}
    lines = [
        ("torch, float32", checks["litert_float"]["examples"], metric.text(value_in(result, "float")), ""),
        *(
            (names[key], found["examples"], metric.text(value_in(found)), agreement.text(found["agreement"]))
            for key, found in checks.items()
            if found["examples"]
        ),
    ]
    return table(("", "examples", metric.name, agreement.name), lines)


def _noise(result: Mapping[str, Any]) -> list[str]:
    """Where int8 loses what it loses, the worst first."""
    if not (found := result.get("signal_to_noise_db")):
        return []
    said = (
        f"Signal to noise of each layer, int8 against torch, on public examples; calibration: {result['calibration']}."
    )
    lines = [(layer, f"{value:.1f}") for layer, value in found.items()]
    return [f"<p class=dim>{escape(said)}</p>", table(("layer, the noisiest first", "dB"), lines)]


def _scratch(result: Mapping[str, Any], metric: Metric) -> list[str]:
    """Whether pruning was worth it: the same small net, trained from fresh weights."""
    if not (found := result.get("scratch")):
        return []
    said = (
        "The same net with the same weights left out, from fresh weights that are pretrained as the run's were "
        f"(|correlation| of initial weights {found['correlation']:.3f}): for as many rounds, and for as much compute "
        "of the devices as the run's training took, by formula. To either side: half of the 95 % interval over the "
        "fresh weights; the run is one, and another seed of it would come out otherwise."
    )
    if found.get("given_weights"):
        said += " The run began with given weights: their own training is counted nowhere, and fresh ones lack it."
    names = {"E": "Scratch-E, equal rounds", "B": "Scratch-B, equal compute"}
    own = ("this run", result["rounds"], "1.00", metric.text(value_in(result, "float")), "")
    lines = [
        (names[name], arm["rounds"], f"{arm['compute']:.2f}", metric.text(statistics.mean(arm["values"])),
         metric.apart(arm["gain"], arm["half"]))
        for name, arm in found["arms"].items()
    ]  # fmt: skip
    head = ("", "rounds", "compute", metric.name, "this run is better by")
    return ["<h2>The same net from scratch</h2>", f"<p class=dim>{escape(said)}</p>", table(head, [own, *lines])]


def _rounds(rows: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    head = ("round", "phase", metric.label, "loss", "density", "KB up", "KB down", "seconds", "devices", "faults")
    return f'<div class="wide">{table(head, (_line(row, metric) for row in rows))}</div>'


def _tiles(result: Mapping[str, Any]) -> str:
    arena = f"{result['arena_bytes'] / 1e3:,.1f} KB" if result["arena_bytes"] else "not measured"
    in_c, metric = result.get("c99_flash_bytes_predicted"), metric_in(result)
    tiles = (
        (escape(f"{metric.name}, torch"), escape(metric.text(value_in(result, "float")))),
        (escape(f"{metric.name}, int8"), escape(metric.text(value_in(result, "int8")))),
        ("density of prunable weights", f"{result['density']:.3f}"),
        ("density of all", f"{result['density_all']:.3f}"),
        ("parameters kept", f"{result['parameters_kept']:,}"),
        ("model.tflite", _kb(result["bytes"]["int8 .tflite, compacted"]) if not result.get("no_export") else "none"),
        *([("flash of the C99 sources, about", _kb(in_c))] if in_c else []),
        ("arena on a microcontroller", arena),
    )
    return '<div class="tiles">' + "".join(f"<div><b>{value}</b>{label}</div>" for label, value in tiles) + "</div>"


def _line(row: Mapping[str, Any], metric: Metric) -> tuple[object, ...]:
    def number(key: str, scale: float, form: str) -> str:
        return "" if row.get(key) is None else format(row[key] * scale, form)

    failed = (f"device {device}: {reason}" for device, reason in faults(row).items())
    named = f"{row['phase']}, {row['part']}" if row.get("part") else row["phase"]
    refusals = (f"device {device} refused" for device in row.get("refused") or {})
    replanned = (f"device {device}: {job} from now on" for device, job in (row.get("replanned") or {}).items())
    again = "those that failed were asked again" if row.get("retried") else ""
    exploded = f"diverged: {why}" if (why := row.get("diverged")) else ""
    return (
        row["round"],
        named,
        "" if (value := value_in(row)) is None else metric.plain(value),
        number("loss", 1, ".4f"),
        number("density", 1, ".4f"),
        number("bytes_up", 1e-3, ",.1f"),
        number("bytes_down", 1e-3, ",.1f"),
        number("seconds", 1, ".2f"),
        row.get("devices", ""),
        "; ".join(filter(None, (exploded, again, *failed, *refusals, *replanned))),
    )


def _kb(count: int) -> str:
    return f"{count / 1e3:,.1f} KB"
