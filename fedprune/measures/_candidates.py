"""Coarse candidates on their way to a device: counts where a mask is the top of |θ|, else masks."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.models import Slot
from fedprune.pruning import masks
from fedprune.pruning.candidates import Pool, candidate_masks
from fedprune.types import Model, Params, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload

BATCH = 128
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class Asked(msgspec.Struct):
    """Values of a request."""

    candidates: dict[str, dict[str, _Count] | None]


def request(model: Model, args: Pool) -> Payload:
    """θ on the union of the candidates, and each candidate as counts where it is the top of |θ|, else as masks."""
    everything = functools.reduce(masks.union, args.candidates)
    weights = masks.apply(model.params, everything)
    values: dict[str, Mapping[str, int] | None] = {}
    apart: dict[str, Tensor] = {}
    for index, candidate in enumerate(args.candidates):
        counts = {name: int(np.count_nonzero(mask)) for name, mask in candidate.items()}
        nested = masks.equal(candidate_masks(weights, counts), candidate)
        values[str(index)] = counts if nested else None
        apart |= {} if nested else {_mask_name(index, name): mask for name, mask in candidate.items()}
    return Payload({"candidates": values}, {**weights, **apart}, everything)


def candidates_of(request: Payload) -> Iterator[Params]:
    """The model's own tensors in every candidate of a request; one at a time, since a device may not hold them all."""
    own = {name: value for name, value in request.tensors.items() if "/" not in name}
    for index, counts in enumerate(request.values["candidates"].values()):
        if counts is None:
            yield masks.apply(own, {name: request.tensors[_mask_name(index, name)] for name in request.masks})
        else:
            yield masks.apply(own, candidate_masks(own, counts))


def accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    """ValueError where a request's candidates are none of the model, or its statistics none of theirs."""
    apart = {name: value for name, value in request.tensors.items() if "/" in name}
    own = {name: value for name, value in request.tensors.items() if name not in apart}
    asked = request.values["candidates"]
    wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for index, counts in enumerate(asked.values()):
        if counts is None:
            found = {_mask_name(index, name): (np.dtype(np.bool_), mask.shape) for name, mask in request.masks.items()}
            wanted |= found
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


def most(slots: Mapping[str, Slot], values: Mapping[str, Any]) -> int:
    """Bytes of every candidate's masks and statistics."""
    return len(values["candidates"]) * sum(slot.nbytes + len(name) + FRAME for name, slot in slots.items())


def _mask_name(index: int, name: str) -> str:
    return f"{index}/mask/{name}"
