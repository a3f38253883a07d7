"""Local differential privacy: Flower's own mod, LocalDpMod, on what a device's training changed.

A train reply is w + u·min(1, C/‖u‖) + N(0, σ²) for each weight and statistic of the device's part of the model, where
w is what the server sent, u what training changed, ‖u‖ its Euclidean norm over all of them, C = ``privacy.clip_norm``
and σ = Δ·√(2 ln(1.25/δ))/ε. Two clipped updates differ by at most Δ = 2C whatever the data, which is their L2
sensitivity; so one answer is (ε, δ)-differentially private between any two data sets of the device that have as many
examples, for ε < 1 (Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, theorem A.1). What the
server does with it later takes nothing from that. Answers compose: k of them are (kε, kδ)-private together (theorem
3.16).

Not covered: how many examples a device has, its memory, how long it takes and that its training failed, all of which
it says as they are; and its exact losses and hits over its test part, where ``privacy.evaluate`` asks for them. The
noise is numpy's, drawn in floating point from the system's randomness and never from the experiment's seed, which the
server knows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.clientapp.typing import ClientAppCallable, Mod

from fedprune import measures
from fedprune.experiment import Privacy, from_json
from fedprune.federated.link.bundle import ROUTE as SEVERAL
from fedprune.federated.link.bundle import Part, pack, unpack, why_failed
from fedprune.federated.link.records import from_records, to_records, values_of
from fedprune.federated.rounds.asking import sums_of
from fedprune.federated.rounds.phases import evaluate, measure, train
from fedprune.federated.rounds.phases.local_steps import OWN
from fedprune.tasks import CLASSIFICATION, Task, named, zeros
from fedprune.types import Masks, Params, Tensor
from fedprune.wire.payload import DIVERGED, REFUSED, Payload

_EXACT = tuple(measure.PREFIX + kind for kind in measures.names() if not measures.find(kind).private)
"""Routes whose replies are exact functions of a device's data."""


def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod of Flower's for a ClientApp: passes everything on, but where a message's experiment asks for privacy.

    Then a train reply carries noise and no losses, a test says nothing unless the experiment has it otherwise, and for
    what would answer with exact functions of the data ValueError is raised: no server gets it from this device.
    """
    kind, group = message.metadata.message_type, message.metadata.group_id
    parts = unpack(message.content) if kind == SEVERAL else [Part(kind, group, message.content)]
    asked = [_asked(part) for part in parts]
    for part, (privacy, _) in zip(parts, asked, strict=True):
        if privacy.epsilon and part.route in _EXACT:
            raise ValueError(f"{part.route} would answer without noise, and privacy.epsilon is {privacy.epsilon:g}")
    reply = call_next(message, context)
    if reply.has_error() or not any(privacy.epsilon for privacy, _ in asked):
        return reply
    answers = unpack(reply.content) if kind == SEVERAL else [Part(kind, group, reply.content)]
    private = [
        answer._replace(records=_private(*of, part, answer.records, message, context))
        for of, part, answer in zip(asked, parts, answers, strict=True)
    ]
    return Message(pack(private) if kind == SEVERAL else private[0].records, reply_to=message)


MODS: list[Mod] = [mod]
"""For ``ClientApp(mods=...)``."""


def _asked(part: Part) -> tuple[Privacy, Task]:
    text = values_of(part.records).get("experiment")
    if text is None:
        return Privacy(), CLASSIFICATION
    experiment = from_json(str(text))
    return experiment.privacy, named(experiment.task) if experiment.privacy.epsilon else CLASSIFICATION


def _private(
    asked: Privacy, task: Task, part: Part, answer: RecordDict, message: Message, context: Context
) -> RecordDict:
    """What may leave the device of its ``answer`` to ``part``, which came in ``message``."""
    if not asked.epsilon or why_failed(answer) is not None or REFUSED in values_of(answer):
        return answer
    if part.route == evaluate.ROUTE and not asked.evaluate:
        given = from_records(answer)
        said = {key: value for key, value in given.values.items() if key != DIVERGED}
        return to_records(given._replace(values={**said, "loss": None, **zeros(task), "seen": 0}))
    return _noised(asked, task, part.records, answer, message, context) if part.route == train.ROUTE else answer


def _noised(
    asked: Privacy, task: Task, sent: RecordDict, answer: RecordDict, message: Message, context: Context
) -> RecordDict:
    """The answer after Flower's mod, which wants plain arrays of equal names in a request and in its reply.

    The mod is given an app that has its answer ready: training is done by now, so that its memory is free again.
    """
    request = from_records(sent)  # within its bounds, or the device would have no answer
    given = from_records(answer, request.masks)
    counted = {key for key in given.values if "/" in key}  # of evidence that travels along
    unknown = given.tensors.keys() - request.tensors.keys()
    whole = {name for name, value in given.tensors.items() if name.startswith(OWN) and value.dtype.kind != "f"}
    if exact := sorted(counted | unknown | whole):
        raise ValueError(f"{exact[0]} would be sent without noise, and privacy.epsilon is {asked.epsilon:g}")
    names = [name for name, value in given.tensors.items() if np.issubdtype(value.dtype, np.floating)]
    before = _kept(request.tensors, request.masks, names)
    after = _changed(before, _kept(given.tensors, request.masks, names))
    # An experiment's own modules run in this process too, and may have seeded what the mod draws from.
    np.random.seed()  # noqa: NPY002
    noise = LocalDpMod(asked.clip_norm, 2 * asked.clip_norm, asked.epsilon, asked.delta)
    plain = noise(_plain(before, message), context, lambda _, __: _plain(after, message))
    if plain.has_error():
        raise RuntimeError(plain.error.reason)
    found = next(iter(plain.content.array_records.values())).to_numpy_ndarrays()
    noised = {
        name: _back(name, vector, given.tensors[name], request.masks) for name, vector in zip(names, found, strict=True)
    }
    values = {key: value for key, value in given.values.items() if key not in sums_of(task)}
    return to_records(Payload(values, {**given.tensors, **noised}), request.masks)


def _kept(tensors: Params, masks: Masks, names: Sequence[str]) -> list[Tensor]:
    """Each tensor's positions that the device trains, as a vector; doubles, in which small updates have a norm."""
    chosen = (tensors[name][masks[name]] if name in masks else tensors[name].reshape(-1) for name in names)
    return [value.astype(np.float64) for value in chosen]


def _changed(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    """``after``; where training diverged, ``before``: what is not finite cannot be clipped.

    Flower's mod divides by the norm of the change, so one of 0 is given a length, far below the noise.
    """
    if not all(np.isfinite(value).all() for value in after):
        after = [value.copy() for value in before]
    if all(np.array_equal(new, old) for new, old in zip(after, before, strict=True)):
        first = next(value for value in after if value.size)
        first[0] += 1e-9 * max(1.0, abs(first[0]))
    return after


def _plain(vectors: Sequence[Tensor], message: Message) -> Message:
    arrays = {str(index): Array(vector) for index, vector in enumerate(vectors)}
    return Message(RecordDict({"arrays": ArrayRecord(arrays)}), reply_to=message)


def _back(name: str, vector: Tensor, like: Tensor, masks: Masks) -> Tensor:
    """The vector in the shape and type of ``like``, 0 where it is pruned; a variance is at least 0."""
    value = vector.astype(like.dtype)
    if name.endswith(".running_var"):
        value = np.maximum(value, 0)
    if name not in masks:
        return value.reshape(like.shape)
    tensor = np.zeros_like(like)
    tensor[masks[name]] = value
    return tensor
