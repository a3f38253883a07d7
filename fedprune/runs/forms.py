"""A trained model in every form that leaves the server, and the check of each against torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase
from fedprune.federated.rounds.phases.check import SLOW, Told, check
from fedprune.federated.rounds.rounds import measured
from fedprune.runs import shipping
from fedprune.runs.costs import SRAM_SLACK
from fedprune.runs.setting import Setting
from fedprune.tasks import CLASSIFICATION, Task, value_in, value_key
from fedprune.types import DeviceId

if TYPE_CHECKING:
    from torch import nn

    from fedprune.export.litert.converter import Converted
    from fedprune.graph import UnsupportedOperation

_MOST_ARENA = 1.25  # of a dense file's working memory, since that is scarcer than flash
_MICRO_MACS = (
    5e6  # of an inference; the reference kernels are slow, and of larger models a share of the examples is run
)


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

    task: Task
    value: float | None
    """The task's metric, of torch; None where no device says."""
    forms: dict[str, Any]
    """For litert_float, litert_int8 and tflm: examples, accuracy or another metric, and agreement with torch."""
    arena_bytes: int | None
    """Working memory on a microcontroller; None where it could not be measured."""
    by_device: Mapping[DeviceId, float | None]
    """The metric of the int8 file on a device's test part; None where it has none."""

    @property
    def int8(self) -> float | None:
        """The metric of the int8 file."""
        return value_in(self.forms["litert_int8"])


def ready(setting: Setting, source: str) -> None:
    """ExperimentError, before any training, for what could not be exported or checked after it."""
    from fedprune.export import litert
    from fedprune.graph import UnsupportedOperation

    if problem := shipping.without_ranges(setting):
        raise ExperimentError(f"{source}: {problem}")
    if not any(parts["test"] for parts in setting.holds.values()):
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
        made = _converted(setting, model, error, len(setting.public))
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
    if not len(setting.public) or setting.experiment.export.ranges == "devices":
        raise ExperimentError(f"{named} cannot be exported without public examples: {why}") from why
    seen = setting.schema.normalise(setting.public.inputs[: min(examples, shipping.CALIBRATION)])
    try:
        return convert(model, seen)
    except (UnsupportedOperation, RuntimeError, ValueError) as error:
        raise ExperimentError(f"{named} cannot be exported: {why}; nor in the second way: {error}") from error


def question(forms: Forms, task: Task = CLASSIFICATION) -> Phase[dict[DeviceId, Told]]:
    """What devices are asked of a model's files: how each does on their test parts.

    TensorFlow Lite Micro, where a device has it, gets fewer of them the larger the model is.
    """
    files = {"litert_float": forms.litert_float, "litert_int8": forms.litert_int8, SLOW: forms.micro}
    return check(files, min(1.0, _MICRO_MACS / max(forms.macs, 1)), task)


def runs_here(setting: Setting, forms: Forms) -> int | None:
    """The arena that a model takes, in bytes, None where it cannot be measured here.

    ExperimentError where LiteRT does not run one of its files.
    """
    from fedprune.export import litert, tflm

    nothing = np.zeros((1, *setting.schema.input_shape), np.float32)
    try:
        for file in (forms.litert_float, forms.litert_int8):
            litert.run(file, nothing)
    except RuntimeError as error:
        raise ExperimentError(f"model: {setting.experiment.model}: its file cannot be run here: {error}") from error
    try:
        return tflm.run(forms.micro, nothing)[1]
    except RuntimeError:  # no interpreter on this machine, or one that refuses the model
        return None


def checked(told: Mapping[DeviceId, Told], arena_bytes: int | None, task: Task = CLASSIFICATION) -> Check:
    """How each form does on the test parts of all devices together, and the int8 file on each."""
    names = ("litert_float", "litert_int8", SLOW)
    forms = {name: _sum(task, [each["forms"][name] for each in told.values()]) for name in names}
    by_device = {device: _value(task, [each["forms"]["litert_int8"]]) for device, each in told.items()}
    return Check(task, _value(task, [*told.values()]), forms, arena_bytes, by_device)


def _sum(task: Task, told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    examples, agree = (sum(each[key] or 0 for each in told) for key in ("examples", "agree"))
    why = next((each["why"] for each in told if each["why"]), "")
    value = {"accuracy": None, value_key(task.metric): _value(task, told)}
    found = {"examples": examples, **value, "agreement": agree / examples if examples else None}
    return found | ({"why": why} if why and not examples else {})


def _value(task: Task, told: Sequence[Mapping[str, Any]]) -> float | None:
    """The metric over the examples of all; None where there are none, or a sum is not finite."""
    seen, sums = sum(each["examples"] for each in told), {}
    for name in task.names:
        values = [each[name] for each in told if each["examples"]]
        if not seen or None in values:
            return None
        sums[name] = sum(values)
    return task.value({**sums, "seen": seen})
