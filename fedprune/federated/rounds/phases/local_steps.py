"""The device's half of phase train: local steps on its own part, and on smaller ones nested in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from fedprune import measures, training
from fedprune.counter_rng import generator
from fedprune.data import Examples
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import divergence
from fedprune.lazy import Lazy, joined, picked
from fedprune.models import draws
from fedprune.tasks import zeros
from fedprune.training import native as natively
from fedprune.training.divergence import Diverged
from fedprune.training.examples import chosen
from fedprune.training.lean import SubModel
from fedprune.training.optimisers import steps_of
from fedprune.training.quantised import quantisation_aware
from fedprune.types import Local, Model, Params, Sgd, Tensor
from fedprune.wire.payload import Payload

if TYPE_CHECKING:
    import torch
    from torch import nn

ROUTE = "train"
INNER, OWN, REPORT = "inner/", "own/", "report/"
"""Prefixes of tensors: of smaller parts; of the method's own, from its memory or besides the model; of evidence."""
LOCAL = "local"
"""Value of a request: that the device builds its half of the method, which is not plain training."""


def own_tensors(payload: Payload) -> Params:
    """The tensors of the device's own part of the model."""
    return picked(payload.tensors, lambda name: not name.startswith((INNER, OWN, REPORT)))


def everything(params: Params, memory: Params) -> Params:
    """What a device sends by default."""
    return joined(params, memory)


def device(self: Device, request: Payload) -> Payload:
    """Train the epochs asked for; returns all parameters and buffers, and sums over the examples trained on.

    Or, alone, that training has diverged: nothing that came of it is worth a place in an average. Where answers are to
    be private, it returns what it was sent instead.
    """
    settings, round, job = self.experiment.training, int(request.values["round"]), Job.of(request.values)
    local = self.local(job.size) if request.values.get(LOCAL) else Local()
    late = round > self.experiment.rounds - settings.quantise_last
    plain = not late and not job.inner and natively.trains(settings, local)
    if plain and (native := self.native(request, own_tensors(request))) is not None:
        return _natively(self, request, native, local, job)
    model = self.model(own_tensors(request))
    memory = _memory(request, local)
    sgd, steps = _sgd(self, request), steps_of(settings.optimiser, settings.clip_gradients, settings.proximal)
    examples = _chosen(self, job, round, local, model, memory)
    batches = _batches(self, examples, round)
    inner = _inner_models(request, len(job.inner))
    each = 1 + min(job.inner_steps, len(inner))
    batches = (batch for batch in batches for _ in range(each))
    turns = [0] * (1 + len(inner))
    rng = generator(self.experiment.seed, "device", self.who, "turn", round)
    taken = local.turns(len(inner), rng) if local.turns and each == 1 else _turns(len(inner), each, rng)

    def turn(step: int) -> int:
        mine = next(taken)
        turns[mine] += 1
        return mine

    def draw_anew(step: int) -> None:
        draws.begin(self.number("train", round, step))

    if late:
        local = quantisation_aware(local)
    try:
        with draws.seeded(self.number("train", round)):
            outcome = training.train(
                model, batches, sgd, request.masks, local=local, steps=steps, memory=memory, round=round,
                lean=job.lean, inner=inner, turn=turn if inner else None, before_step=draw_anew, task=self.task,
            )  # fmt: skip
    except Diverged as error:
        if not self.experiment.privacy.epsilon:
            return divergence.reply(error)
        # it depends on the device's data whether it did: a private answer is what was sent, and noise
        training.load_state(model, own_tensors(request))
        memory, inner = _memory(request, local), _inner_models(request, len(job.inner))
        outcome = training.Outcome(0.0, zeros(self.task), 0)
    values = {"examples": len(examples), "loss": outcome.loss, **outcome.sums, "seen": outcome.examples}
    buffers = {
        f"{INNER}{index}/{name}": value.numpy()
        for index, each in enumerate(inner)
        for name, value in each.buffers.items()
    }
    state, own = training.state_of(model), {name: memory[name].detach().numpy().copy() for name in local.trains}
    sent = (local.sends or everything)(state, own)
    tensors = {name if name in state else OWN + name: value for name, value in sent.items()}
    said, evidence = _reports(self, local, Model(state, request.masks), request, job)
    return Payload({**values, **({"turns": turns} if inner else {}), **said}, {**tensors, **buffers, **evidence})


def _natively(self: Device, request: Payload, model: natively.Model, local: Local, job: Job) -> Payload:
    """The same without torch."""
    settings, round = self.experiment.training, int(request.values["round"])
    examples = _shared(self, job, round)
    try:
        outcome, state = natively.train(
            model, _batches(self, examples, round), _sgd(self, request), request.masks, examples=settings.batch,
            steps=steps_of(settings.optimiser, settings.clip_gradients, settings.proximal), lean=job.lean,
            task=self.task, smoothing=settings.label_smoothing,
        )  # fmt: skip
    except Diverged as error:
        if not self.experiment.privacy.epsilon:
            return divergence.reply(error)
        outcome, state = training.Outcome(0.0, zeros(self.task), 0), own_tensors(request)
    values = {"examples": len(examples), "loss": outcome.loss, **outcome.sums, "seen": outcome.examples}
    sent = (local.sends or everything)(state, {})
    tensors = Lazy({name if name in state else OWN + name: partial(sent.__getitem__, name) for name in sent})
    said, evidence = _reports(self, local, Model(state, request.masks), request, job)
    return Payload({**values, **said}, joined(tensors, evidence))


def _sgd(self: Device, request: Payload) -> Sgd:
    settings = self.experiment.training
    return Sgd(float(request.values["learning_rate"]), settings.momentum, settings.weight_decay)


def _batches(self: Device, examples: Examples, round: int) -> Iterator[tuple[Tensor, Tensor]]:
    settings = self.experiment.training
    for epoch in range(settings.epochs):
        yield from self.shuffled(examples, settings.batch, "train", round, epoch)


def _shared(self: Device, job: Job, round: int) -> Examples:
    """The part of its examples that a device is given to train on."""
    examples = self.parts.train
    if job.share < 1:
        some = generator(self.experiment.seed, "device", self.who, "share", round).permutation(len(examples))
        examples = examples.take(np.sort(some[: ceil(job.share * len(examples))]))
    return examples


def _memory(request: Payload, local: Local) -> dict[str, torch.Tensor]:
    import torch

    own = {name: request.tensors[OWN + name] for name in (*local.reads, *local.trains)}
    return {name: torch.from_numpy(value.copy()).requires_grad_(name in local.trains) for name, value in own.items()}


def _chosen(
    self: Device, job: Job, round: int, local: Local, model: nn.Module, memory: dict[str, torch.Tensor]
) -> Examples:
    """The examples that it trains on in this round."""
    examples = _shared(self, job, round)
    if local.examples is not None:
        rng = generator(self.experiment.seed, "device", self.who, "examples", round)
        inputs, batch = self.schema.normalise(examples.inputs), self.experiment.training.batch
        with draws.seeded(self.number("examples", round)):
            index = chosen(local.examples, model, inputs, examples.labels, memory, rng, at_rest=batch, task=self.task)
        examples = examples.take(index)
    return examples


def _reports(self: Device, local: Local, model: Model, request: Payload, job: Job) -> tuple[dict[str, object], Params]:
    """(values, tensors) of the evidence that travels along."""
    said: dict[str, object] = {}
    tensors: Params = {}
    for name, ask in local.reports.items():
        kind = measures.find(ask.kind)
        asked = kind.request(model, ask.args)
        asked = asked._replace(values={"round": request.values["round"], **asked.values})
        answer = kind.measure(self, asked, job.grow_batch if kind.backward else job.batch)
        said |= {f"{name}/{key}": value for key, value in answer.values.items()}
        tensors = {**tensors, **{f"{REPORT}{name}/{key}": value for key, value in answer.tensors.items()}}
    return said, tensors


def _turns(inner: int, each: int, rng: np.random.Generator) -> Iterator[int]:
    """Which model each step trains, 0 the device's own: it and ``each`` - 1 smaller ones in turn, or any at random."""
    while True:
        if each > 1:
            yield from (0, *sorted((1 + rng.permutation(inner)[: each - 1]).tolist()))
        else:
            yield int(rng.integers(1 + inner))


def _inner_models(request: Payload, count: int) -> list[SubModel]:
    import torch

    found = []
    for index in range(count):
        prefix = f"{INNER}{index}/"
        mine = {key.removeprefix(prefix): v for key, v in request.tensors.items() if key.startswith(prefix)}
        kept, buffers = {}, {}
        for key, value in mine.items():
            name = key.removeprefix("mask/")
            if name == key:
                buffers[name] = torch.from_numpy(value.copy())
            elif name in request.masks:
                kept[name] = np.zeros(request.masks[name].shape, np.bool_)
                kept[name][request.masks[name]] = value
            else:
                kept[name] = value.reshape(request.tensors[name].shape)
        found.append(SubModel(kept, buffers))
    return found
