"""A trained model in every form that leaves the server, and the check of each against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune import training
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import measured
from fedprune.models import draws
from fedprune.runs import shipping
from fedprune.runs.costs import SRAM_SLACK
from fedprune.runs.setting import Setting
from fedprune.types import Tensor

if TYPE_CHECKING:
    from torch import nn

    from fedprune.export.litert.converter import Converted
    from fedprune.graph import UnsupportedOperation

_BATCH = 250
_MOST_ARENA = 1.25  # of a dense file's working memory, since that is scarcer than flash
_MICRO_MACS = 4e9  # the reference kernels of TensorFlow Lite Micro are slow: so much takes them some ten seconds


class Forms(NamedTuple):
    """One model: as trained, and as files."""

    model: nn.Module
    compact: nn.Module
    """Without the channels that nothing needs; the same function."""
    litert_float: bytes
    litert_int8: bytes
    """The compacted model, all integers: what is shipped."""
    litert_int8_dense: bytes
    """The same without compaction, to compare."""
    micro: bytes
    """The compacted model for TensorFlow Lite Micro, which leaves the zeros out of flash."""
    macs: int
    """Multiply-adds of the compacted model."""


class Check(NamedTuple):
    """How each form does on the test parts of all devices together."""

    accuracy: float
    """Of torch."""
    forms: dict[str, Any]
    """For litert_float, litert_int8 and tflm: examples, accuracy, and agreement (the same class as torch)."""
    arena_bytes: int | None
    """Working memory on a microcontroller; None where it could not be measured."""


def ready(setting: Setting, source: str) -> None:
    """ExperimentError, before any training, for what could not be exported or checked after it."""
    from fedprune.export import litert
    from fedprune.graph import UnsupportedOperation

    if problem := shipping.without_ranges(setting):
        raise ExperimentError(f"{source}: {problem}")
    if not any(len(device.test_indices) for device in setting.federation.devices):
        raise ExperimentError(f"{source}: data.test: no device has an example to test the model on; set it above 0")
    try:
        litert.write_float(shipping.graph(setting, setting.model()))
    except UnsupportedOperation as error:
        _converted(setting, setting.model(), error, 1, f"{source}: ")


def make(setting: Setting, state: State, sram_bytes: int = 0, part: str = "") -> Forms:
    """Shrink, trace and quantise the model of a part, of which ``state`` is the view.

    Layers whose zeros are left out are unpacked in working memory: as many as ``sram_bytes`` allow, or, where that is
    0, as cost no more than a quarter of what the dense file takes. ExperimentError for what cannot be exported.
    """
    from fedprune.budgets import macs
    from fedprune.export import litert, tflm
    from fedprune.export.inspection.file import inspect
    from fedprune.export.litert.reader import read
    from fedprune.graph import UnsupportedOperation

    model, compact = shipping.compacted(setting, state)
    try:
        whole, small = shipping.graph(setting, model), shipping.graph(setting, compact)
        whole_ranges, ranges = shipping.ranges(setting, measured(state, part), whole, small)
        dense_file, file = litert.write_int8(whole, whole_ranges), litert.write_int8(small, ranges)
        allowed = sram_bytes - SRAM_SLACK if sram_bytes else int(_MOST_ARENA * tflm.sram_bytes(small))
        # a channel less may make the rest no shorter: rows of 23 channels pack worse than rows of 24
        both = ((small, ranges), (whole, whole_ranges))
        micro = min((tflm.write_sparse(*each, allowed) for each in both), key=len)
        return Forms(model, compact, litert.write_float(small), file, dense_file, micro, macs(small))
    except UnsupportedOperation as error:
        made = _converted(setting, model, error, len(setting.federation.public))
    limit = sram_bytes - SRAM_SLACK if sram_bytes else None
    micro = tflm.pack_sparse(read(made.litert_int8), limit)
    return Forms(model, model, *made, made.litert_int8, micro, inspect(made.litert_int8).macs)


def _converted(
    setting: Setting, model: nn.Module, why: UnsupportedOperation, examples: int, place: str = ""
) -> Converted:
    """The files of a model that has no graph, by way of litert-torch, with the ranges of public examples."""
    from fedprune.export.litert.converter import convert
    from fedprune.graph import UnsupportedOperation

    named = f"{place}model: {setting.experiment.model}"
    if not len(setting.federation.public) or setting.experiment.export.ranges == "devices":
        raise ExperimentError(f"{named} cannot be exported without public examples: {why}") from why
    seen = setting.dataset.normalise(setting.federation.public.inputs[: min(examples, shipping.CALIBRATION)])
    try:
        return convert(model, seen)
    except (UnsupportedOperation, RuntimeError, ValueError) as error:
        raise ExperimentError(f"{named} cannot be exported: {why}; nor in the second way: {error}") from error


def check(setting: Setting, forms: Forms) -> Check:
    """Run every form on the devices' test parts, TensorFlow Lite Micro on as many of them as ten seconds allow.

    ExperimentError where LiteRT does not run a file.
    """
    from fedprune.export import litert, tflm

    inputs, labels = test_set(setting)
    everything = np.arange(len(labels))
    batches = training.in_batches(lambda part: inputs[part], labels, everything, _BATCH)
    with draws.seeded(setting.experiment.seed):
        wanted = training.predict(forms.model, batches).argmax(1)
    # spread over all devices, whose parts lie one after the other
    few = np.unique(np.linspace(0, len(labels) - 1, max(1, int(_MICRO_MACS / max(forms.macs, 1)))).astype(np.int64))

    def compare(outputs: Tensor, at: Tensor) -> dict[str, Any]:
        found = outputs.argmax(1)
        return {
            "examples": len(at),
            "accuracy": float(np.mean(found == labels[at])),
            "agreement": float(np.mean(found == wanted[at])),
        }

    try:
        found = {
            "litert_float": compare(litert.run(forms.litert_float, inputs), everything),
            "litert_int8": compare(litert.run(forms.litert_int8, inputs), everything),
        }
    except RuntimeError as error:
        raise ExperimentError(f"model: {setting.experiment.model}: its file cannot be run here: {error}") from error
    arena_bytes: int | None = None
    try:
        outputs, arena_bytes = tflm.run(forms.micro, inputs[few])
        found["tflm"] = compare(outputs, few)
    except RuntimeError as error:  # no interpreter on this machine, or one that refuses the model
        found["tflm"] = {"examples": 0, "accuracy": None, "agreement": None, "why": str(error)}
    return Check(float(np.mean(wanted == labels)), found, arena_bytes)


def test_set(setting: Setting) -> tuple[Tensor, Tensor]:
    """(normalised inputs, labels) of every device's test part, in the order of devices."""
    parts = [device.test for device in setting.federation.devices]
    inputs = setting.dataset.normalise(np.concatenate([part.inputs for part in parts]))
    return inputs, np.concatenate([part.labels for part in parts])
