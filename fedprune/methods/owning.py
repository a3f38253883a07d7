"""What is a device's own in a method's memory: its mask, under ``mask/DEVICE/``, and weights, ``own/DEVICE/``."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from fedprune.methods.layers import masked
from fedprune.methods.rewinding import named, unnamed
from fedprune.pruning import masks
from fedprune.types import DeviceId, Masks, Model, Params

_MASK, _OWN, _ROUND = "mask/", "own/", "round"


def begun() -> Params:
    """Memory before round 0."""
    return {_ROUND: np.asarray(0)}


def coming(model: Model) -> int:
    """The round that comes next; in one before it a device is tested, as it ended the last one that it took part in."""
    return int(model.memory[_ROUND]) + 1


def devices(model: Model) -> Sequence[str]:
    """Those that have a mask of their own, in an order that does not depend on who was first."""
    return sorted({name.split("/")[1] for name in model.memory if name.startswith(_MASK)})


def mask_of(model: Model, device: DeviceId) -> Masks:
    """A device's own mask; empty where it has none."""
    return unnamed(f"{_MASK}{device}/", model.memory)


def weights_of(model: Model, device: DeviceId) -> Params:
    """A device's own tensors; empty where it has none."""
    return unnamed(f"{_OWN}{device}/", model.memory)


def owned(device: DeviceId, kept: Masks, weights: Params) -> Params:
    """A device's own, as it is kept in memory."""
    return {**named(f"{_MASK}{device}/", kept), **named(f"{_OWN}{device}/", weights)}


def under_all(model: Model, found: object, round: int) -> Model:
    """The ``act`` of a method with personal masks: the average under the union of all of them."""
    kept = [mask_of(model, device) for device in devices(model)]
    whole = functools.reduce(masks.union, kept) if kept else model.masks
    return masked(model._replace(memory={**model.memory, _ROUND: np.asarray(round)}), whole)
