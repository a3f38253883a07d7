"""A device as its phases see it: its parts of the data, and models to load a state into."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune import counter_rng, models, tasks, training
from fedprune import experiment as _experiment
from fedprune.counter_rng import generator
from fedprune.data import DeviceData, Examples, Schema, own
from fedprune.data.loading import in_order, opened, shuffled
from fedprune.experiment import Experiment
from fedprune.graph import width
from fedprune.graph.message import slots_of_text
from fedprune.graph.shared import unique_state
from fedprune.methods.building import at_size, prunable_of
from fedprune.models import Slot, draws
from fedprune.tasks import Task
from fedprune.training import native
from fedprune.types import DeviceId, Local, Params, Tensor
from fedprune.wire.payload import Payload

if TYPE_CHECKING:
    from torch import nn


_SHOWN = 20  # of a device's files that it cannot use


@dataclass(frozen=True, eq=False)
class Device:
    """One device in one run."""

    who: DeviceId
    """A number where one data set is dealt to devices; a name where each has data of its own."""
    experiment: Experiment
    schema: Schema
    parts: DeviceData
    unused: Mapping[str, int] = field(default_factory=dict)
    """Of own recordings that cannot be used: label that is none of the classes -> its examples; "" -> files."""
    tier: str = ""
    """Tier of an experiment's fleet that its owner has put it in, where it has its own data."""

    @functools.cached_property
    def task(self) -> Task:
        """What the model is for, with weights of classes by the device's own training examples."""
        labels = self.parts.pool.labels[self.parts.train_indices]
        return tasks.of(self.experiment, self.schema, labels)

    def log_unknown(self) -> None:
        """Say in the device's own log which of its labels are none of the classes."""
        unknown = [(label, count) for label, count in self.unused.items() if label]
        _log([f"{self.who}: left out: {n} examples of {label!r}, none of the classes" for label, n in unknown])

    def slots(self, values: Mapping[str, Any] = MappingProxyType({})) -> Mapping[str, Slot]:
        """What the state of the experiment's model holds, by name; said by a request's ``values`` for native training.

        Only so is it known without torch. ValueError where they say nonsense.
        """
        text = values.get(native.NET)
        if isinstance(text, str) and native.installed():
            return _slots(text)
        return models.slots(self.experiment.model, self.schema.input_shape, len(self.schema.classes))

    def model(self, params: Params) -> nn.Module:
        """The experiment's model with these parameters and buffers, narrower where they are.

        One model serves a process: the last call's. It is as new, whatever of its own an earlier one has moved.
        """
        own = self.experiment
        what = own.model, self.schema.input_shape, len(self.schema.classes), own.seed, own.task
        shapes = tuple((name, value.shape) for name, value in params.items())
        model, as_new = _model(*what, shapes)
        if as_new is None or _own(model) != as_new:
            _model.cache_clear()
            model, _ = _model(*what, shapes)
        training.load_state(model, params)
        return model

    def native(self, request: Payload, params: Params) -> native.Model | None:
        """The model with these parameters for the native trainer; None where torch computes with it.

        It does not where the server sent no graph, as of a model that the trainer does not cover, and where the trainer
        is not installed. ValueError for a graph that is none.
        """
        text = request.values.get(native.NET)
        if not isinstance(text, str) or not native.installed():
            return None
        return native.model(text, params, tasks.numbers_of(self.experiment.task, self.schema))

    def local(self, size: float) -> Local:
        """The device's half of the experiment's method, at a size; 0 is the experiment's own."""
        return _local(self.experiment, self.schema.input_shape, len(self.schema.classes), size)

    def number(self, *names: str | int) -> int:
        """A number in [0, 2⁶⁴) that seed, device and ``names`` decide, for `draws`."""
        return counter_rng.number(self.experiment.seed, "device", self.who, *names)

    def batches(self, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in stored order, in batches of at most ``size``."""
        return in_order(self.schema, examples, size)

    def shuffled(self, examples: Examples, size: int, *names: str | int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in an order that seed, device and ``names`` decide, augmented where the experiment says so."""
        rng = generator(self.experiment.seed, "device", self.who, *names)
        return shuffled(self.schema, examples, size, rng, augment=self.experiment.training.augment)


@functools.lru_cache(maxsize=4)
def _slots(text: str) -> Mapping[str, Slot]:
    return {
        name: Slot(shape, dtype, prod(shape) * np.dtype(dtype).itemsize, trained)
        for name, (shape, dtype, trained) in slots_of_text(text).items()
    }


def _log(lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        print(line, file=sys.stderr, flush=True)


def own_device(text: str, name: str, folder: Path, tier: str = "", *, whose: str = "") -> Device:
    """A device with a folder of its own, in the experiment of a text; as the folder is now. DataError, in one line.

    Before devices have agreed on what an example is, it is what this one has. ``whose`` its recordings are is what is
    hashed with their names; its own ``name`` where it has one that lasts.
    """
    data = _experiment.from_json(text).data
    return _own_device(text, name, folder, tier, whose or name, own.stamp(data, folder))


@functools.lru_cache(maxsize=64)
def _own_device(text: str, name: str, folder: Path, tier: str, whose: str, stamp: str) -> Device:
    experiment = _experiment.from_json(text)
    recorded, schema, parts, unknown = opened(experiment.data, folder, whose)
    # in the device's own log, once for what is there
    _log([f"{folder.name}: left out: {problem}" for problem in recorded.problems] if recorded.fresh else ())
    return Device(name, experiment, schema, parts, {**unknown, "": len(recorded.problems)}, tier)


def _local(experiment: Experiment, input_shape: tuple[int, ...], classes: int, size: float) -> Local:
    text = _experiment.to_json(experiment)  # a table has no hash
    return _local_of(text, input_shape, classes, size)


@functools.lru_cache(maxsize=8)
def _local_of(text: str, input_shape: tuple[int, ...], classes: int, size: float) -> Local:
    training.one_thread()
    experiment = _experiment.from_json(text)
    net = models.build(experiment.model, input_shape, classes, experiment.seed, tasks.named(experiment.task))
    return at_size(experiment, prunable_of(experiment, net, input_shape))(size).local


@functools.lru_cache(maxsize=3)
def _model(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    task: str,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
) -> tuple[nn.Module, object]:
    """(a model of these shapes, what its modules hold besides)."""
    import torch

    training.one_thread()
    of = tasks.named(task)
    model = models.build(name, input_shape, classes, seed, of)
    if len(input_shape) == 3:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    whole = {key: tuple(value.shape) for key, value in unique_state(model).items()}
    narrower = whole.keys() == dict(shapes).keys() and whole != dict(shapes)
    with draws.seeded(seed):  # a copy of a net may hold a copy of a generator, as it is now
        if narrower:
            model = models.checked(name, width.fit(model, dict(shapes)), input_shape, classes, of)
    return model, _own(model)


def _own(model: nn.Module) -> object:
    """What modules hold besides the model's state, to be compared; None where it is not made of plain values.

    A counter, or a generator of the net's own, would go on from message to message, in each process by itself.
    """
    from torch import nn

    of_all = vars(nn.Module()).keys()
    try:
        if any(module._non_persistent_buffers_set for module in model.modules()):
            return None
        return [
            [(key, _plain(value)) for key, value in vars(module).items() if key not in of_all]
            for module in model.modules()
        ]
    except TypeError:
        return None


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, int | float | str | FunctionType | BuiltinFunctionType | type):
        return value
    raise TypeError
