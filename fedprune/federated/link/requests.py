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

from fedprune.experiment.sections import Rate
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.wire.payload import Payload
from fedprune.federated.rounds.phases import candidates, evaluate, grow, profile, ranges, train
from fedprune.models import Slot
from fedprune.types import Masks, Params
from fedprune.wire import FRAME

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_LARGEST_FILE = 2**28
_UNFOLDS = 1024
"""A file of int8 weights is hardly ever sent in less than so much less, however sparse it is."""


class _Trained(msgspec.Struct):
    round: _Count
    learning_rate: Rate


class _Grown(msgspec.Struct):
    round: _Count
    counts: Annotated[dict[str, _Count], Meta(min_length=1)]


class _Compared(msgspec.Struct):
    candidates: dict[str, dict[str, _Count] | None]


class _Measured(msgspec.Struct):
    graph: dict[str, Any]


_PHASES = (
    profile.ROUTE, candidates.STATISTICS, candidates.LOSS, train.ROUTE, grow.ROUTE, evaluate.ROUTE, ranges.ROUTE,
)  # fmt: skip
"""Routes that ask something of the experiment's model; others bring a file, and check it themselves."""

_VALUES: Mapping[str, type[msgspec.Struct]] = {
    train.ROUTE: _Trained,
    grow.ROUTE: _Grown,
    candidates.STATISTICS: _Compared,
    candidates.LOSS: _Compared,
    ranges.ROUTE: _Measured,
}


def most_bytes(device: Device, route: str, values: Mapping[str, Any], records: RecordDict) -> int:
    """What an honest request of a phase takes at most, decoded; its masks as much once more.

    ValueError where its values are not those that its phase asks with.
    """
    if kind := _VALUES.get(route):
        try:
            msgspec.convert(values, kind)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a request of {route}: {error}") from error
    if route == profile.ROUTE:
        return 0
    if route not in _PHASES:
        received = sum(record.count_bytes() for record in records.array_records.values())
        return min(_LARGEST_FILE, _UNFOLDS * received)
    model = sum(slot.nbytes + len(name) + FRAME for name, slot in device.slots().items())
    if route == ranges.ROUTE:
        return 2 * model + _repeated(device.slots(), values["graph"])
    # of every candidate, and of every smaller part, masks and statistics
    return model * (2 + len(values.get("candidates", ())) + len(Job.of(values).inner))


def _repeated(slots: Mapping[str, Slot], graph: Mapping[str, Any]) -> int:
    """Bytes of a graph's parameters: a weight that several operations share is sent with each of them."""
    found = graph.get("operations")
    operations = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    fields = [field for each in operations for field in each.values() if isinstance(field, dict)]
    names = [str(field["name"]) for field in fields if "name" in field]
    return sum(FRAME + (slots[name].nbytes if name in slots else 0) for name in names)


def check(device: Device, route: str, request: Payload) -> None:
    """ValueError where a request's tensors and masks are not those of the experiment's model."""
    if route not in _PHASES or route in (profile.ROUTE, ranges.ROUTE):
        if request.masks or (request.tensors and route == profile.ROUTE):
            raise ValueError(f"{route} asks with tensors or masks, of which it needs none")
        return
    apart = {name: value for name, value in request.tensors.items() if "/" in name}
    own = {name: value for name, value in request.tensors.items() if name not in apart}
    _model(device.slots(), own, request.masks)
    if route == train.ROUTE:
        for name, value in apart.items():
            _inner(name, value, own, request.masks, len(Job.of(request.values).inner))
    elif route in (candidates.STATISTICS, candidates.LOSS):
        _candidates(request.values["candidates"], own, apart, request.masks)
    elif apart:
        raise ValueError(f"{route} asks with {sorted(apart)[:3]} as well")
    if route == grow.ROUTE and (unknown := sorted(request.values["counts"].keys() - request.masks.keys())):
        raise ValueError(f"gradients are asked for of {unknown[:3]}, which have no mask")


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


def _candidates(asked: Mapping[str, Any], own: Params, apart: Params, masks: Masks) -> None:
    wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for index, counts in enumerate(asked.values()):
        if counts is None:
            wanted |= {f"{index}/mask/{name}": (np.dtype(np.bool_), mask.shape) for name, mask in masks.items()}
            continue
        for name, most in counts.items():
            if name not in own or most > own[name].size:
                raise ValueError(f"candidate {index}: {most} weights of {name!r:.80}, which has not so many")
    for name, (dtype, shape) in wanted.items():
        if name not in apart or (apart[name].dtype, apart[name].shape) != (dtype, shape):
            raise ValueError(f"{name!r:.80} is missing, or no mask of its layer")
    for name in sorted(apart.keys() - wanted.keys()):
        candidate, _, key = name.partition("/")
        layer, _, kind = key.rpartition(".")
        statistic = own.get(f"{layer}.running_{kind}")
        right = candidate in map(str, range(len(asked))) and kind in ("mean", "var") and statistic is not None
        if not right or statistic is None or apart[name].shape != statistic.shape:
            raise ValueError(f"{name!r:.80} is no statistic of a candidate")
        if apart[name].dtype.kind != "f":
            raise ValueError(f"{name!r:.80} is {apart[name].dtype}, expected float32")
