"""A run's picture as Prometheus text, format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fedprune.tasks import ACCURACY


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str
    samples: Iterable[tuple[Mapping[str, str], float | int | None]]
    """(labels, value); one without a value is left out."""


def metrics_text(picture: Mapping[str, Any]) -> str:
    """Text for a scrape of a ``picture``. Counters start again where a resumed run drops its incomplete round."""
    return "".join(line + "\n" for metric in _metrics(picture) for line in _lines(metric))


def _metrics(picture: Mapping[str, Any]) -> Iterator[_Metric]:
    parts, devices, phases = picture["parts"], picture["devices"], picture["phases"]
    train: Mapping[str, Any] = next((each["train"] for each in reversed(picture["rounds"]) if each["train"]), {})
    info = {"name": picture["name"], "what": picture["subtitle"]}
    yield _Metric("fedprune_run_info", "gauge", "What runs; always 1.", [(info, 1)])
    yield _gauge("fedprune_round", "Round of the last line; 0 is before training.", picture["round"])
    yield _gauge("fedprune_rounds", "Rounds that were asked for.", picture["rounds_asked"])
    yield _gauge("fedprune_finished", "1 once the model is exported.", int(picture["state"] == "finished"))
    yield _gauge(
        "fedprune_last_line_timestamp_seconds", "When the last phase was written, since 1970.", picture["written_s"]
    )
    yield _gauge("fedprune_density", "Kept fraction of the prunable weights.", picture["density"])
    named = picture["metric"]["name"]
    told, labelled = ("accuracy", {}) if named == ACCURACY.name else ("value", {"metric": named})
    for key, what in (
        ("accuracy", "Accuracy over the test parts of all devices, 0 to 1; part is empty for the whole model."),
        ("value", "The metric over the test parts of all devices; part is empty for the whole model."),
        ("loss", "Loss over the test parts of all devices."),
        ("density", "Kept fraction of the prunable weights of a part of the model."),
    ):
        more = labelled if key == told else {}
        samples = [({"part": part, **more}, test.get(key)) for part, test in parts.items()]
        yield _Metric(f"fedprune_{'part' if key == 'density' else 'test'}_{key}", "gauge", what, samples)
    yield _gauge("fedprune_train_accuracy", "Accuracy on devices while they train, 0 to 1.", train.get("accuracy"))
    what = "The metric on devices while they train."
    yield _Metric("fedprune_train_value", "gauge", what, [(labelled, train.get("value"))])
    yield _gauge("fedprune_train_loss", "Loss on devices while they train.", train.get("loss"))
    layers = [
        ({"part": part, "layer": name}, value)
        for part, densities in picture["layers"].items()
        for name, value in densities.items()
    ]
    yield _Metric("fedprune_layer_density", "gauge", "Kept fraction of a layer's weights.", layers)
    for direction, what in (("up", "from devices"), ("down", "to devices")):
        samples = [({"phase": phase}, sums[f"bytes_{direction}"]) for phase, sums in phases.items()]
        yield _Metric(f"fedprune_bytes_{direction}_total", "counter", f"Bytes of messages {what}.", samples)
    seconds = [({"phase": phase}, sums["seconds"]) for phase, sums in phases.items()]
    yield _Metric("fedprune_phase_seconds_total", "counter", "Seconds that phases took.", seconds)
    computed = [({"phase": phase}, sums.get("device_seconds")) for phase, sums in phases.items()]
    what = "Seconds that the slowest device of each phase computed; what is left of phase seconds is the link's."
    yield _Metric("fedprune_phase_device_seconds_total", "counter", what, computed)
    retried = [({"phase": phase}, sums["retried"]) for phase, sums in phases.items()]
    yield _Metric("fedprune_retries_total", "counter", "How often those that failed were asked again.", retried)
    yield _gauge("fedprune_devices", "Devices that train.", len(devices))
    named = [({"device": str(each["device"]), "tier": each["tier"]}, each) for each in devices]
    for key, what in (
        ("asked", "Phases in which a device was asked, where the run tells."),
        ("answered", "Phases in which a device answered well, where the run tells."),
        ("faults", "Phases in which a device failed, also by being late."),
        ("late", "Phases in which a device ran out of time."),
        ("refusals", "Jobs that a device refused."),
    ):
        yield _Metric(f"fedprune_device_{key}_total", "counter", what, [(label, each[key]) for label, each in named])
    for key, what in (
        ("aside", "1 while a device that failed repeatedly is not asked."),
        ("absent", "1 while a device is not connected."),
    ):
        samples = [(label, int(each["away"] == key)) for label, each in named]
        yield _Metric(f"fedprune_device_{key}", "gauge", what, samples)
    yield _gauge("fedprune_strangers", "Nodes that are none of the devices.", len(picture["strangers"]))


def _gauge(name: str, what: str, value: float | None) -> _Metric:
    return _Metric(name, "gauge", what, [({}, value)])


def _lines(metric: _Metric) -> Iterator[str]:
    said = [(labels, value) for labels, value in metric.samples if value is not None]
    if not said:
        return
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in said:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{metric.name}{{{inner}}} {value}" if inner else f"{metric.name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
