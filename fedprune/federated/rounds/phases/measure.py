"""Phase measure: devices measure a kind of evidence, the server merges it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from fedprune import measures
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job, held
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import device_of, written
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.pruning import masks
from fedprune.types import Ask, DeviceId, Model, Params, Tensor
from fedprune.wire.payload import Payload

PREFIX = "query."


def measure(ask: Ask, round: int) -> Phase[Params]:
    """Measure what is asked for in ``round``; reduces to merged evidence, ``DEVICE/name`` where it is wanted apart."""
    kind = measures.find(ask.kind)

    def request(state: State, job: Job) -> Payload:
        asked = kind.request(_model(state, job, ask), ask.args)
        more = {"round": round} if "round" in kind.values.__struct_fields__ else {}
        return asked._replace(values={**more, **asked.values, **job.to_values()})

    def reduce(state: State, replies: Sequence[Reply]) -> Params:
        return merged(ask, {reply.device: reply.payload for reply in replies})

    def check(state: State, job: Job, payload: Payload) -> None:
        kind.check(payload, ask.args, _model(state, job, ask))

    return Phase(
        PREFIX + ask.kind,
        request,
        functools.partial(device, ask.kind),
        reduce,
        check,
        {"examples": measures.part_of(kind, ask.args)},
        copies=kind.copies(ask.args),
        more=lambda state, job: kind.answers(ask.args, _model(state, job, ask)),
    )


def device(kind: str, self: Device, request: Payload) -> Payload:
    """The device's half of a kind."""
    own, job = measures.find(kind), Job.of(request.values)
    return own.measure(self, request, job.grow_batch if own.backward else job.batch)


def merged(ask: Ask, answers: Mapping[DeviceId, Payload]) -> dict[str, Tensor]:
    """The evidence of devices' answers, in the order of devices."""
    merge = measures.find(ask.kind).merge
    if not ask.apart:
        return dict(merge(list(answers.values()), ask.args))
    each = {device: merge([answer], ask.args) for device, answer in answers.items()}
    return {f"{written(device)}/{name}": value for device, found in each.items() for name, value in found.items()}


def by_device(found: Params) -> dict[DeviceId, dict[str, Tensor]]:
    """Device -> its evidence, of what was wanted apart."""
    apart: dict[DeviceId, dict[str, Tensor]] = {}
    for key, value in found.items():
        device, _, name = key.partition("/")
        apart.setdefault(device_of(device), {})[name] = value
    return apart


def _model(state: State, job: Job, ask: Ask) -> Model:
    """The model as the job's device is asked with it."""
    params, kept = held(state, job)
    under = masks.intersect(kept, ask.masks)
    return Model(masks.apply(params, under) if ask.masks else params, under)
