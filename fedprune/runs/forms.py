"""A trained model in every form that leaves the server, and the check of each against torch."""

from __future__ import annotations

import importlib.util
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
    """This and the other files are empty where the model cannot be exported."""
    litert_int8: bytes
    """The compacted model, all integers: what is shipped."""
    litert_int8_dense: bytes
    """The same without compaction, to compare."""
    micro: bytes
    """The compacted model for TensorFlow Lite Micro, which leaves the zeros out of flash."""
    macs: int
    """Multiply-adds of the compacted model; 0 where it cannot be exported."""
    why: str = ""
    """Why there are no files: which operator of which line has no rule. Empty where there are some."""
    calibration: str = "minmax"
    """How the ranges of the int8 files came about."""
    noise_db: Mapping[str, float] = {}
    """Layer -> signal to noise of the int8 file against torch on public examples, the noisiest first."""
    parameters: int = 0
    """That the compacted model's file holds, batch norms folded; 0 where it is not known."""


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
    int8_loss: float | None = None
    """By how much the metric of the int8 file is worse than torch's, over the test parts on which both ran to the end;
    of an accuracy, torch's less that of the file."""

    @property
    def int8(self) -> float | None:
        """The metric of the int8 file."""
        return value_in(self.forms["litert_int8"])


def ready(setting: Setting, source: str) -> str:
    """What is to be said, before any training, of an export that will not be possible; empty where it is.

    ExperimentError for what could not be checked after it.
    """
    from fedprune.export import litert
    from fedprune.graph import UnsupportedOperation

    if problem := shipping.without_ranges(setting):
        raise ExperimentError(f"{source}: {problem}")
    if not any(parts["test"] for parts in setting.holds.values()):
        raise ExperimentError(f"{source}: data.test: no device has an example to test the model on; set it above 0")
    try:
        litert.write_float(shipping.graph(setting, setting.model()))
    except UnsupportedOperation as error:
        found = _converted(setting, setting.model(), error, 1)
        return f"{found}; it is trained, and model.npz will hold it" if isinstance(found, str) else ""
    return ""


def make(setting: Setting, state: State, sram_bytes: int = 0, part: str = "") -> Forms:
    """Shrink, trace and quantise the model of a part, of which ``state`` is the view.

    Layers whose zeros are left out are unpacked in working memory: as many as ``sram_bytes`` allow, or, where that is
    0, as cost no more than a quarter of what the dense file takes. Of a model that cannot be exported there are no
    files, and `Forms.why`. ExperimentError where ranges are missing.
    """
    from fedprune.budgets import macs
    from fedprune.export import litert, tflm
    from fedprune.export.inspection.file import inspect
    from fedprune.export.litert.reader import read
    from fedprune.graph import UnsupportedOperation, parameters

    model, compact = shipping.compacted(setting, state)
    try:
        whole, small = shipping.graph(setting, model), shipping.smaller(setting, compact)
        dense, ready, way = shipping.calibrated(setting, measured(state, part), whole, small)
        dense_file, file = litert.write_int8(*dense[:2]), litert.write_int8(*ready[:2])
        allowed = sram_bytes - SRAM_SLACK if sram_bytes else int(_MOST_ARENA * tflm.sram_bytes(small))
        # a channel less may make the rest no shorter: rows of 23 channels pack worse than rows of 24
        micro = min((tflm.write_sparse(*each[:2], allowed) for each in (ready, dense)), key=len)
        files = (litert.write_float(small), file, dense_file, micro)
        held = sum({each.name: each.value.size for op in small.operations for each in parameters(op)}.values())
        return Forms(model, compact, *files, macs(small), "", str(way), ready.noise_db, held)
    except UnsupportedOperation as error:
        made = _converted(setting, model, error, len(setting.public))
    if isinstance(made, str):
        return Forms(model, compact, b"", b"", b"", b"", 0, made)
    limit = sram_bytes - SRAM_SLACK if sram_bytes else None
    micro = tflm.pack_sparse(read(made.litert_int8), limit)
    return Forms(model, model, *made, made.litert_int8, micro, inspect(made.litert_int8).macs)


def _converted(setting: Setting, model: nn.Module, why: UnsupportedOperation, examples: int) -> Converted | str:
    """The files of a model that has no graph, by way of litert-torch, with the ranges of public examples; or why not.

    That is a line that names the operator that the graph has no rule for, and where the model calls it.
    """
    from fedprune.export.litert.converter import convert
    from fedprune.graph import UnsupportedOperation

    named = f"model: {setting.experiment.model} cannot be exported: {why}"
    if not len(setting.public) or setting.experiment.export.ranges == "devices" or not _second_way():
        return named
    seen = setting.schema.normalise(setting.public.inputs[: min(examples, shipping.CALIBRATION)])
    try:
        return convert(model, seen)
    except (UnsupportedOperation, RuntimeError, ValueError) as error:
        return f"{named}; nor by litert-torch: {error}"


def _second_way() -> bool:
    return importlib.util.find_spec("litert_torch") is not None


def question(forms: Forms, task: Task = CLASSIFICATION) -> Phase[dict[DeviceId, Told]]:
    """What devices are asked of a model's files: how each does on their test parts.

    TensorFlow Lite Micro, where a device has it, gets fewer of them the larger the model is.
    """
    files = {"litert_float": forms.litert_float, "litert_int8": forms.litert_int8, SLOW: forms.micro}
    return check({name: file for name, file in files.items() if file}, min(1.0, _MICRO_MACS / max(forms.macs, 1)), task)


def runs_here(setting: Setting, forms: Forms) -> int | None:
    """The arena that a model takes, in bytes, None where it cannot be measured here.

    ExperimentError where LiteRT does not run one of its files.
    """
    from fedprune.export import litert, tflm

    if forms.why:
        return None
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
    forms = {name: _sum(task, _of_form(told, name)) for name in names}
    ints = {device: _of_form({device: each}, "litert_int8") for device, each in told.items()}
    by_device = {device: _value(task, each) for device, each in ints.items()}
    return Check(task, _value(task, [*told.values()]), forms, arena_bytes, by_device, _int8_loss(task, told))


def _of_form(told: Mapping[DeviceId, Told], name: str) -> list[Mapping[str, Any]]:
    return [each["forms"][name] for each in told.values() if name in each["forms"]]


def _int8_loss(task: Task, told: Mapping[DeviceId, Told]) -> float | None:
    ran = [each for each in told.values() if "litert_int8" in each["forms"]]
    both = [each for each in ran if each["forms"]["litert_int8"]["examples"] == each["examples"]]
    torch, int8 = _value(task, both), _value(task, [each["forms"]["litert_int8"] for each in both])
    if torch is None or int8 is None:
        return None
    return torch - int8 if task.metric.higher else int8 - torch


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
