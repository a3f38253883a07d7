"""Kinds of evidence, one a file: what a device measures, how answers merge, which are refused, what they cost.

A file here named after its kind holds ``KIND``; nothing else has to know of it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np

from fedprune.tasks import Task
from fedprune.types import DeviceId, Model, Params, Tensor
from fedprune.wire.payload import Payload

if TYPE_CHECKING:
    from torch import nn

    from fedprune.data import DeviceData, Examples, Schema
    from fedprune.experiment import Experiment
    from fedprune.models import Slot
    from fedprune.training import native

TRAIN, DEVELOPMENT = "train", "development"
"""Parts of a device's examples that evidence is measured on."""


class Measurer(Protocol):
    """A device, as far as a measurement needs it."""

    @property
    def who(self) -> DeviceId:
        """Which one it is."""

    @property
    def experiment(self) -> Experiment:
        """What it takes part in."""

    @property
    def schema(self) -> Schema:
        """What an example is."""

    @property
    def task(self) -> Task:
        """What the model is for."""

    @property
    def parts(self) -> DeviceData:
        """Its examples, by what they are for."""

    def model(self, params: Params) -> nn.Module:
        """The experiment's model with these parameters and buffers. One model serves a process: the last call's."""

    def native(self, request: Payload, params: Params) -> native.Model | None:
        """The model with these parameters for the native trainer; None where torch computes with it."""

    def number(self, *names: str | int) -> int:
        """A number in [0, 2⁶⁴) that seed, device and names decide, for `draws`."""

    def batches(self, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in stored order, as a model wants them, in batches of at most ``size``."""


class NoValues(msgspec.Struct):
    """Values of a kind that asks with none."""


def _plain_request(model: Model, args: Any) -> Payload:
    return Payload({}, model.params, model.masks)


def nothing_more(slots: Mapping[str, Slot], request: Payload) -> None:
    """ValueError where a request has tensors besides the model's."""
    if apart := sorted(name for name in request.tensors if "/" in name):
        raise ValueError(f"asks with {apart[:3]} as well")


class Kind(NamedTuple):
    """A kind of evidence."""

    measure: Callable[[Measurer, Payload, int], Payload]
    """The device's half: (device, request, most examples at a time, 0 where nothing bounds them) -> its answer, with
    ``examples``, the number of examples behind it, among the values. What is behind it is the device's ``of`` examples,
    or some of them that seed and device decide."""
    merge: Callable[[Sequence[Payload], Any], Mapping[str, Tensor]]
    """(answers, args of the ask) -> merged evidence, that of all examples pooled, whatever the order of the answers."""
    check: Callable[[Payload, Any, Model], None]
    """(answer, args, the model as it was sent): ValueError for an answer that must not be used."""
    of: str = TRAIN
    """Whose examples are behind it: ``train`` or ``development``."""
    request: Callable[[Model, Any], Payload] = _plain_request
    """(the model as its holders have it, args) -> what devices are asked with."""
    values: type[msgspec.Struct] = NoValues
    """What a request's values must be, whatever else they hold."""
    accepts: Callable[[Mapping[str, Slot], Payload], None] = nothing_more
    """The device's check: ValueError where a request's values, or its tensors with a ``/`` in their names, are none of
    this kind. Tensors of the model and masks are checked before it."""
    private: bool = False
    """Whether an answer says nothing of a device's data, or carries noise of its own."""
    backward: bool = False
    """Whether a backward pass is needed, and so the memory to train."""
    copies: Callable[[Any], int] = lambda args: 1
    """args -> how many times over an answer may say something of every tensor that was sent."""
    passes: int = 1
    """Forward passes over the examples; for the plan of a device's time."""
    memory: Callable[[Mapping[str, tuple[int, ...]]], int] = lambda shapes: 0
    """Shapes of all parameters -> bytes that a measurement holds besides the model and its activations."""
    carries: bool = True
    """Whether a request carries the model and its masks; where not, all of its tensors are of the kind's own, with a
    ``/`` in their names, and it has no masks."""
    most: Callable[[Mapping[str, Slot], Mapping[str, Any]], int] = lambda slots, values: 0
    """(slots, values) -> bytes that an honest request's tensors take at most besides those of the model."""
    answers: Callable[[Any, Model], int] = lambda args, model: 0
    """(args, model) -> bytes that an honest answer takes at most besides the ``copies`` of what was sent."""
    classes: bool = False
    """Whether it is about classes, which only some tasks have."""
    natively: bool = False
    """Whether it needs no torch, of a model that the native trainer covers."""
    whose: Callable[[Any], str] | None = None
    """args -> whose examples are behind it, where the asker has the choice; else ``of``."""


@functools.cache
def find(name: str) -> Kind:
    """The kind of a name. KeyError where there is none."""
    if name not in names():
        raise KeyError(f"{name!r} is no kind of evidence; there are {', '.join(names())}")
    kind: Kind = importlib.import_module(f"{__name__}.{name}").KIND
    return kind


@functools.cache
def names() -> tuple[str, ...]:
    """All kinds, in the order of their names."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")))


def part_of(kind: Kind, args: Any) -> str:
    """The part of its examples that a device measures a kind on."""
    return kind.of if kind.whose is None else kind.whose(args)


def examples_of(device: Measurer, part: str) -> Examples:
    """A device's examples of a part of its data."""
    return device.parts.train if part == TRAIN else device.parts.development


def finite(answer: Payload, shapes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> None:
    """ValueError where an answer's tensors have not exactly these names and shapes and this type, or are not finite."""
    if answer.tensors.keys() != shapes.keys():
        raise ValueError(f"expected other tensors; these differ: {sorted(answer.tensors.keys() ^ shapes.keys())[:3]}")
    for name, value in answer.tensors.items():
        if value.dtype != np.dtype(dtype) or value.shape != shapes[name]:
            raise ValueError(f"{name} is {value.dtype}{value.shape}, expected {dtype}{shapes[name]}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{name} holds a value that is not finite")
