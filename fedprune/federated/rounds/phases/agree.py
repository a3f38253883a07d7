"""Phase agree: before round 0 devices with own data say what it is like; the server makes what all go by of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from fedprune import __version__
from fedprune.budgets import memory_bytes
from fedprune.data.agreement import Told, channels, tell
from fedprune.data.own.folders import LONGEST_LABEL, is_label
from fedprune.data.parts import PARTS
from fedprune.experiment import Data
from fedprune.experiment.own_data import LARGEST, MOST_CLASSES, MOST_VALUES, targets_of
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import said
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.types import DeviceId
from fedprune.wire.payload import MEMORY, Payload, count

ROUTE = "query.agree"
_MEAN, _M2 = "mean", "m2"
_MOST_EXAMPLES = 2**31 - 1
_MOST_AXES = 5
_MOST_MEAN, _MOST_M2 = LARGEST / 10, LARGEST**2 / 10
_MOST_BYTES = 2**22


def agree(settings: Data) -> Phase[dict[DeviceId, Told]]:
    """Ask devices for counts by part and class, an example's shape and, where not fixed, moments of their inputs."""

    def check(state: State, job: Job, payload: Payload) -> None:
        _check(settings, payload)

    return Phase(ROUTE, lambda state, job: Payload(), device, reduce, check, more=lambda state, job: _MOST_BYTES)


def device(self: Device, request: Payload) -> Payload:
    """Its name, the tier that it belongs in, and what it tells of its data."""
    self.log_unknown()
    told = tell(self.experiment.data, self.schema, self.parts)
    values = {
        "device": self.who,
        "version": __version__,
        MEMORY: memory_bytes(),
        "shape": list(told.shape),
        "counts": told.counts,
        "tier": self.tier,
    }
    return Payload(values, {_MEAN: told.mean, _M2: told.m2} if told.mean.size else {})


def reduce(state: State, replies: Sequence[Reply]) -> dict[DeviceId, Told]:
    """Device -> what it tells."""
    none = np.empty(0)
    return {
        reply.device: Told(
            tuple(reply.payload.values["shape"]),
            reply.payload.values["counts"],
            reply.payload.tensors.get(_MEAN, none),
            reply.payload.tensors.get(_M2, none),
            reply.payload.values["tier"],
        )
        for reply in replies
    }


def _check(settings: Data, payload: Payload) -> None:
    """ValueError where an answer is none, or its numbers contradict each other."""
    if not isinstance(said(payload), str):
        raise ValueError('the device says no name: its node-config wants name="..."')
    count(payload, MEMORY)
    if not isinstance(tier := payload.values.get("tier"), str) or len(tier) > LONGEST_LABEL:
        raise ValueError(f"tier is {tier!r:.60}, expected a name, or nothing")
    shape, counts = payload.values.get("shape"), payload.values.get("counts")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES:
        raise ValueError(f"shape is {shape!r:.60}, expected lengths of axes")
    for length in shape:
        count(Payload({"shape": length}), "shape", least=1, most=MOST_VALUES)
    if prod(shape) > MOST_VALUES:
        raise ValueError(f"shape is {shape!r:.60}, which is more than {MOST_VALUES:,} values")
    if not isinstance(counts, dict) or counts.keys() != {*PARTS}:
        raise ValueError(f"counts is {counts!r:.60}, expected a table of {', '.join(PARTS)}")
    examples = {part: sum(_table(counts[part], part).values()) for part in PARTS}
    if any(examples.values()) != bool(shape):
        raise ValueError("an example without a shape, or a shape without an example")
    if not examples["train"] or settings.mean:
        if payload.tensors:
            raise ValueError(f"expected no moments, got {sorted(payload.tensors)[:3]}")
        return
    wanted = (channels(settings, tuple(shape)) + len(targets_of(settings)),)
    if payload.tensors.keys() != {_MEAN, _M2}:
        raise ValueError(f"expected mean and m2, got {sorted(payload.tensors)[:3]}")
    for name, value in payload.tensors.items():
        if value.dtype != np.float64 or value.shape != wanted or not np.isfinite(value).all():
            raise ValueError(f"{name} is {value.dtype}{value.shape}, expected finite float64{wanted}")
    mean, m2 = payload.tensors[_MEAN], payload.tensors[_M2]
    if np.any(abs(mean) > _MOST_MEAN) or np.any(m2 < 0) or np.any(m2 > _MOST_M2):
        raise ValueError("moments that no data has")


def _table(given: Any, what: str) -> dict[str, int]:
    if not isinstance(given, dict) or len(given) > MOST_CLASSES:
        raise ValueError(f"{what} is {given!r:.60}, expected a table of counts")
    for name in given:
        if not isinstance(name, str) or not is_label(name):
            raise ValueError(f"{what} names {name!r:.60}, expected a printable text")
        count(Payload(given), name, most=_MOST_EXAMPLES)
    return given
