"""Phases candidate_statistics and candidate_loss: adaptive batch-norm selection among coarse masks (FedTiny)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedprune import draws, training
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.wire.payload import Payload, count, number
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.pruning import masks
from fedprune.pruning.candidates import candidate_masks, choose
from fedprune.training import evidence
from fedprune.types import Masks, Moments, Params, Tensor

if TYPE_CHECKING:
    from torch import nn

STATISTICS, LOSS = "query.candidate_statistics", "query.candidate_loss"
_BATCH = 128
_RUNNING = ".running_"
_COUNTS = {"examples": "development"}
CHOSEN = "chosen"
"""In a state's memory: which candidate it was."""


def candidate_statistics(candidates: Sequence[Masks], merge: Callable[[Sequence[Moments]], Moments]) -> Phase:
    """Every candidate's BN statistics over all development parts, merged into the state's memory."""

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        merged: dict[str, Tensor] = {}
        # a device without development examples has nothing to say
        replies = [reply for reply in replies if number(reply.payload, "examples") > 0]
        names = [name.removesuffix(".mean") for name in (replies[0].payload.tensors if replies else {})]
        for name in (name for name in names if not name.endswith(".var")):
            moments = merge([_moments(reply.payload, name) for reply in replies])
            merged[f"{name}.mean"] = moments.mean.astype(np.float32)
            merged[f"{name}.var"] = moments.variance.astype(np.float32)
        return State(state.round, state.params, state.masks, {**state.memory, **merged})

    def check(state: State, job: Job, payload: Payload) -> None:
        if count(payload, "examples") == 0:
            if payload.tensors:
                raise ValueError("statistics of no examples")
            return
        expected = {
            f"{index}/{name.removesuffix(_RUNNING + kind)}.{kind}": value.shape
            for index in range(len(candidates))
            for name, value in state.params.items()
            for kind in ("mean", "var")
            if name.endswith(_RUNNING + kind)
        }
        if payload.tensors.keys() != expected.keys():
            differ = sorted(payload.tensors.keys() ^ expected.keys())[:3]
            raise ValueError(f"expected the statistics of every batch-norm layer; these differ: {differ}")
        for name, value in payload.tensors.items():
            finite = value.dtype == np.float32 and value.shape == expected[name] and np.isfinite(value).all()
            if not finite or (name.endswith(".var") and (value < 0).any()):
                raise ValueError(f"{name}: not the finite statistics of a batch-norm layer")

    request = functools.partial(_request, candidates)
    return Phase(STATISTICS, request, statistics_device, reduce, check, _COUNTS, copies=len(candidates))


def candidate_loss(candidates: Sequence[Masks]) -> Phase:
    """Choose the candidate of the least development loss under the merged statistics; it becomes the model."""

    def request(state: State, job: Job) -> Payload:
        asked = _request(candidates, state, job)
        return Payload(asked.values, {**asked.tensors, **state.memory}, asked.masks)

    def reduce(state: State, replies: Sequence[Reply]) -> State:
        chosen = choose([(r.payload.values["losses"], int(number(r.payload, "examples"))) for r in replies])
        params = {**state.params, **_statistics_of(chosen, state.memory)}
        return State(0, masks.apply(params, candidates[chosen]), candidates[chosen], {CHOSEN: np.asarray(chosen)})

    def check(state: State, job: Job, payload: Payload) -> None:
        count(payload, "examples")
        if payload.tensors:
            raise ValueError(f"expected losses alone, got the tensors {sorted(payload.tensors)[:3]}")
        losses = payload.values.get("losses")
        if not isinstance(losses, list) or len(losses) != len(candidates):
            raise ValueError(f"expected {len(candidates)} losses")
        for loss in losses:
            # null stands for a loss that is not finite, which JSON cannot say
            if loss is not None:
                number(Payload({"loss": loss}), "loss")

    return Phase(LOSS, request, loss_device, reduce, check, _COUNTS)


def _request(candidates: Sequence[Masks], state: State, job: Job) -> Payload:
    """θ on the union of the candidates, and each candidate as counts where it is the top of |θ|, else as masks."""
    everything = functools.reduce(masks.union, candidates)
    weights = masks.apply(state.params, everything)
    values: dict[str, Mapping[str, int] | None] = {}
    apart: dict[str, Tensor] = {}
    for index, candidate in enumerate(candidates):
        counts = {name: int(np.count_nonzero(mask)) for name, mask in candidate.items()}
        nested = masks.equal(candidate_masks(weights, counts), candidate)
        values[str(index)] = counts if nested else None
        apart |= {} if nested else {_mask_name(index, name): mask for name, mask in candidate.items()}
    return Payload({"candidates": values, **job.to_values()}, {**weights, **apart}, everything)


def _candidates(request: Payload) -> Iterator[Params]:
    """The model's own tensors in every candidate of a request; one at a time, since a device may not hold them all."""
    own = {name: value for name, value in request.tensors.items() if "/" not in name}
    for index, counts in enumerate(request.values["candidates"].values()):
        if counts is None:
            yield masks.apply(own, {name: request.tensors[_mask_name(index, name)] for name in request.masks})
        else:
            yield masks.apply(own, candidate_masks(own, counts))


def statistics_device(self: Device, request: Payload) -> Payload:
    """Re-estimate the BN statistics of every candidate on the development part: two floats a channel each."""
    examples, tensors = self.parts.development, {}
    batch = min(Job.of(request.values).batch or _BATCH, _BATCH)
    for index, params in enumerate(_candidates(request) if len(examples) else []):
        model: nn.Module = self.model(params)
        with draws.seeded(self.number("candidates")):
            found = evidence.bn_statistics(model, self.batches(examples, batch))
        for name, moments in found.items():
            tensors[f"{index}/{name}.mean"], tensors[f"{index}/{name}.var"] = moments.mean, moments.variance
    return Payload({"examples": len(examples)}, tensors)


def loss_device(self: Device, request: Payload) -> Payload:
    """Loss sum of every candidate on the development part, in evaluation mode, with the statistics that were sent."""
    examples, losses = self.parts.development, []
    batch = min(Job.of(request.values).batch or _BATCH, _BATCH)
    for index, params in enumerate(_candidates(request)):
        model = self.model({**params, **_statistics_of(index, request.tensors)})
        with draws.seeded(self.number("candidates")):  # the same for each, so that only the masks differ
            loss = training.evaluate(model, self.batches(examples, batch)).loss
        losses.append(loss if np.isfinite(loss) else None)
    return Payload({"examples": len(examples), "losses": losses})


def _statistics_of(index: int, tensors: Params) -> Params:
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        number_, _, key = name.partition("/")
        if number_ == str(index) and key.endswith((".mean", ".var")):
            layer, _, kind = key.rpartition(".")
            found[f"{layer}.running_{kind}"] = value
    return found


def _moments(payload: Payload, name: str) -> Moments:
    tensors = payload.tensors
    return Moments(tensors[f"{name}.mean"], tensors[f"{name}.var"], int(number(payload, "examples")))


def _mask_name(index: int, name: str) -> str:
    return f"{index}/mask/{name}"
