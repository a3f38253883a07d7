"""The device's half of phase train: local steps on its own part, and on smaller ones nested in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from fedprune.training.native_steps import Inner
from fedprune.training.optimisers import steps_of
from fedprune.training.quantised import quantisation_aware
from fedprune.types import Local, Model, Params, Sgd, Tensor
from fedprune.wire.payload import TRAINER, Payload

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
    plain = not late and natively.trains(settings, local)
    if plain and (native := self.native(request, own_tensors(request))) is not None:
        return _natively(self, request, native, local, job)
    model = self.model(own_tensors(request))
    memory = _memory(request, local)
    sgd, steps = _sgd(self, request), steps_of(settings.optimiser, settings.clip_gradients, settings.proximal)
    examples = _chosen(self, job, round, local, model, memory)
    inner, turns = _inner(request, len(job.inner)), _Turns(self, job, local, round)

    def draw_anew(step: int) -> None:
        draws.begin(self.number("train", round, step))

    if late:
        local = quantisation_aware(local)
    try:
        with draws.seeded(self.number("train", round)):
            outcome = training.train(
                model, turns.batches(_batches(self, examples, round)), sgd, request.masks, local=local, steps=steps,
                memory=memory, round=round, lean=job.lean, inner=_sub_models(inner), turn=turns.turn if inner else None,
                before_step=draw_anew, task=self.task,
            )  # fmt: skip
    except Diverged as error:
        if not self.experiment.privacy.epsilon:
            return divergence.reply(error)
        # it depends on the device's data whether it did: a private answer is what was sent, and noise
        training.load_state(model, own_tensors(request))
        memory, inner = _memory(request, local), _inner(request, len(job.inner))
        outcome = training.Outcome(0.0, zeros(self.task), 0)
    values = {TRAINER: "torch", **_sums(examples, outcome)}
    state, own = training.state_of(model), {name: memory[name].detach().numpy().copy() for name in local.trains}
    sent = (local.sends or everything)(state, own)
    tensors = {name if name in state else OWN + name: value for name, value in sent.items()}
    said, evidence = _reports(self, local, Model(state, request.masks), request, job)
    return Payload({**values, **turns.said, **said}, {**tensors, **_buffers(inner), **evidence})


def _natively(self: Device, request: Payload, model: natively.Model, local: Local, job: Job) -> Payload:
    """The same without torch."""
    settings, round = self.experiment.training, int(request.values["round"])
    examples = _shared(self, job, round)
    inner, turns = _inner(request, len(job.inner)), _Turns(self, job, local, round)
    try:
        outcome, state = natively.train(
            model, turns.batches(_batches(self, examples, round)), _sgd(self, request), request.masks,
            examples=settings.batch, steps=steps_of(settings.optimiser, settings.clip_gradients, settings.proximal),
            lean=job.lean, task=self.task, smoothing=settings.label_smoothing, inner=inner,
            turn=turns.turn if inner else None, drawn=lambda step: self.number("train", round, step),
        )  # fmt: skip
    except Diverged as error:
        if not self.experiment.privacy.epsilon:
            return divergence.reply(error)
        outcome, state = training.Outcome(0.0, zeros(self.task), 0), own_tensors(request)
        inner = _inner(request, len(job.inner))
    values = {TRAINER: "native", **_sums(examples, outcome)}
    sent = (local.sends or everything)(state, {})
    tensors = Lazy({name if name in state else OWN + name: partial(sent.__getitem__, name) for name in sent})
    said, evidence = _reports(self, local, Model(state, request.masks), request, job)
    return Payload({**values, **turns.said, **said}, joined(tensors, _buffers(inner), evidence))


def _sums(examples: Examples, outcome: training.Outcome) -> dict[str, float]:
    return {"examples": len(examples), "loss": outcome.loss, **outcome.sums, "seen": outcome.examples}


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


class _Turns:
    """Which model each step of a round trains, and how often each has been."""

    def __init__(self, device: Device, job: Job, local: Local, round: int) -> None:
        inner = len(job.inner)
        self._each = 1 + min(job.inner_steps, inner)
        rng = generator(device.experiment.seed, "device", device.who, "turn", round)
        self._taken = local.turns(inner, rng) if local.turns and self._each == 1 else _turns(inner, self._each, rng)
        self._counts = [0] * (1 + inner)

    def batches(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each batch as often as there are models that train on it."""
        return (batch for batch in batches for _ in range(self._each))

    def turn(self, step: int) -> int:
        """The device's own (0), or one of the smaller ones."""
        mine = next(self._taken)
        self._counts[mine] += 1
        return mine

    @property
    def said(self) -> dict[str, object]:
        """Counts of steps, for a reply; nothing where there is one model."""
        return {"turns": self._counts} if len(self._counts) > 1 else {}


def _turns(inner: int, each: int, rng: np.random.Generator) -> Iterator[int]:
    """Which model each step trains, 0 the device's own: it and ``each`` - 1 smaller ones in turn, or any at random."""
    while True:
        if each > 1:
            yield from (0, *sorted((1 + rng.permutation(inner)[: each - 1]).tolist()))
        else:
            yield int(rng.integers(1 + inner))


def _inner(request: Payload, count: int) -> list[Inner]:
    """The smaller models that are trained along, with buffers that are the device's own."""
    found = []
    for index in range(count):
        prefix = f"{INNER}{index}/"
        mine = {key.removeprefix(prefix): v for key, v in request.tensors.items() if key.startswith(prefix)}
        kept, buffers = {}, {}
        for key, value in mine.items():
            name = key.removeprefix("mask/")
            if name == key:
                buffers[name] = value.copy()
            elif name in request.masks:
                kept[name] = np.zeros(request.masks[name].shape, np.bool_)
                kept[name][request.masks[name]] = value
            else:
                kept[name] = value.reshape(request.tensors[name].shape)
        found.append(Inner(kept, buffers))
    return found


def _sub_models(inner: Sequence[Inner]) -> list[SubModel]:
    """The same for torch, which moves the same buffers."""
    import torch

    return [SubModel(each.masks, {n: torch.from_numpy(v) for n, v in each.buffers.items()}) for each in inner]


def _buffers(inner: Sequence[Inner]) -> Params:
    return {f"{INNER}{index}/{name}": value for index, each in enumerate(inner) for name, value in each.buffers.items()}
