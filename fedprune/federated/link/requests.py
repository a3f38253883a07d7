"""What a device makes sure of before it works on a request: what it may take, and that it is one of its phase.

A message of a few bytes can claim gigabytes: zeros and whole masks cost next to nothing to send. So a device bounds
what it decodes by the model of the experiment, and by how often a phase says something of all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from flwr.app import RecordDict
from msgspec import Meta

from fedprune import measures
from fedprune.experiment.sections import Rate
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import agree, evaluate, measure, profile, train
from fedprune.federated.rounds.phases import check as checking
from fedprune.federated.rounds.phases.local_steps import LOCAL, OWN, own_tensors
from fedprune.lazy import picked
from fedprune.measures import Kind
from fedprune.models import Slot
from fedprune.types import Local, Masks, Params
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_LARGEST_FILE = 2**28
_MEMORIES = 2
_UNFOLDS = 1024
"""A file of int8 weights is hardly ever sent in less than so much less, however sparse it is."""


class _Trained(msgspec.Struct):
    round: _Count
    learning_rate: Rate


_NOTHING = (profile.ROUTE, agree.ROUTE)
"""Routes that ask with nothing."""
_PHASES = (*_NOTHING, train.ROUTE, evaluate.ROUTE, checking.ROUTE)
"""Routes that ask something of the experiment's model, besides kinds of evidence; others bring a file, and check it
themselves."""

_VALUES: Mapping[str, type[msgspec.Struct]] = {train.ROUTE: _Trained}


def _kind(route: str) -> Kind | None:
    name = route.removeprefix(measure.PREFIX)
    return measures.find(name) if name != route and name in measures.names() else None


def most_bytes(device: Device, route: str, values: Mapping[str, Any], records: RecordDict) -> int:
    """What an honest request of a phase takes at most, decoded; its masks as much once more.

    ValueError where its values are not those that its phase asks with.
    """
    evidence = _kind(route)
    if kind := _VALUES.get(route) or (evidence and evidence.values):
        try:
            msgspec.convert(values, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a request of {route}: {error}") from error
    if route in _NOTHING:
        return 0
    received = sum(record.count_bytes() for record in records.array_records.values())
    files = min(_LARGEST_FILE, _UNFOLDS * received)
    if route not in _PHASES and evidence is None:
        return files
    slots = device.slots(values)
    model = sum(slot.nbytes + len(name) + FRAME for name, slot in slots.items())
    if route == checking.ROUTE:
        return 2 * model + files
    if evidence is not None:
        return 2 * model + evidence.most(slots, values)
    # of every smaller part masks and statistics; of a method's memory what the device's half reads, which may be all
    # weights once more, and scores of them
    return model * (2 + len(Job.of(values).inner) + _MEMORIES * bool(values.get(LOCAL)))


def check(device: Device, route: str, request: Payload) -> None:
    """ValueError where a request's tensors and masks are not those of the experiment's model."""
    kind = _kind(route)
    if (route not in _PHASES and kind is None) or route in _NOTHING:
        if request.masks or (request.tensors and route in _NOTHING):
            raise ValueError(f"{route} asks with tensors or masks, of which it needs none")
        return
    if kind is not None and not kind.carries:
        if request.masks:
            raise ValueError(f"{route} asks with masks, of which it needs none")
        kind.accepts(device.slots(request.values), request)
        return
    if kind is not None:
        own = picked(request.tensors, lambda name: "/" not in name)
        _model(device.slots(request.values), own, request.masks)
        kind.accepts(device.slots(request.values), request)
        return
    mine = picked(own_tensors(request), lambda name: not name.startswith(checking.FILE))
    apart = picked(request.tensors, lambda name: name not in mine)
    _model(device.slots(request.values), mine, request.masks)
    if route == train.ROUTE:
        _memory(device, request)
        for name, value in apart.items():
            if not name.startswith(OWN):
                _inner(name, value, mine, request.masks, len(Job.of(request.values).inner))
    elif other := [name for name in apart if route != checking.ROUTE or not name.startswith(checking.FILE)]:
        raise ValueError(f"{route} asks with {sorted(other)[:3]} as well")


def _memory(device: Device, request: Payload) -> None:
    """Of the method's memory exactly what the device's half of it reads or trains, and no number that is none."""
    local = device.local(Job.of(request.values).size) if request.values.get(LOCAL) else Local()
    given = {name.removeprefix(OWN): name for name in request.tensors if name.startswith(OWN)}
    if given.keys() != {*local.reads, *local.trains}:
        differ = sorted(given.keys() ^ {*local.reads, *local.trains})[:3]
        raise ValueError(f"not the memory of the method; these differ: {differ}")
    for name, sent in given.items():
        value = request.tensors[sent]
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{name} of the method's memory holds a value that is not finite")


def _model(slots: Mapping[str, Slot], own: Params, masks: Masks) -> None:
    if own.keys() != slots.keys():
        raise ValueError(f"not the tensors of the model; these differ: {sorted(own.keys() ^ slots.keys())[:3]}")
    for name, value in own.items():
        slot = slots[name]
        sides = zip(value.shape, slot.shape, strict=False)
        other = value.ndim != len(slot.shape) or not all(a == b or 0 < a < b for a, b in sides)
        if other or value.dtype.name != slot.dtype:
            raise ValueError(f"{name} is {value.dtype}{value.shape}, the model's {slot.dtype}{slot.shape}")
    for name, mask in masks.items():
        if name not in slots or not slots[name].trained:
            raise ValueError(f"a mask of {name!r:.80}, which is no parameter of the model")
        if mask.dtype != np.bool_ or mask.shape != own[name].shape:
            raise ValueError(f"mask {name} is {mask.dtype}{mask.shape}, its tensor is {own[name].shape}")


def _inner(name: str, value: Any, own: Params, masks: Masks, parts: int) -> None:
    """Of a smaller part: a mask over what the device holds, flat where that has a mask itself; or a statistic."""
    words = name.split("/")
    key = words[-1]
    kind = words[2:-1]
    known = len(words) in (3, 4) and words[0] == "inner" and words[1] in map(str, range(parts)) and key in own
    if known and kind == ["mask"]:
        sizes = {int(np.count_nonzero(masks[key]))} if key in masks else {own[key].size}
        known = value.dtype == np.bool_ and value.size in sizes and (value.ndim == 1 or key not in masks)
    elif known:
        known = not kind and (value.dtype, value.shape) == (own[key].dtype, own[key].shape)
    if not known:
        raise ValueError(f"{name!r:.80} is nothing of a smaller part of the model")
