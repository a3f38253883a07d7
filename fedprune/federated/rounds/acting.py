"""What a method asks in a round, and what it does with the answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fedprune import measures
from fedprune.federated.rounds.asking import Asking, round_seconds
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State, step_name
from fedprune.federated.rounds.phases.measure import by_device, measure
from fedprune.federated.rounds.phases.server_step import forgotten
from fedprune.federated.rounds.tiers import Tiers
from fedprune.methods import MethodError
from fedprune.pruning import masks
from fedprune.types import Ask, DeviceId, Found, Params


class Done(NamedTuple):
    """A phase that is done."""

    row: dict[str, Any]
    """A line of metrics: round, phase, accuracy, loss, density, bytes_up, bytes_down, seconds, devices, faults."""
    state: State


def started(tiers: Tiers, dense: State) -> State:
    """The state that a method starts with. MethodError where it cannot."""
    try:
        model = tiers.method.start(dense.params)
    except ValueError as error:
        raise MethodError(f"method: {error}") from error
    masks.check(model.masks, model.params)
    return dense.of(model)


def acted(
    link: Asking, fleet: Fleet, tiers: Tiers, state: State, round: int, jobs: Mapping[DeviceId, Job]
) -> Iterator[tuple[Done, Fleet]]:
    """Ask what the method wants to know in ``round``, then let it act; yields each answer, the last with the new state.

    ``jobs`` are those of the round's training. What a state has found already is not asked again.
    """
    began, row = time.perf_counter(), dict[str, Any]()
    asked: dict[str, Ask] = {}
    while new := _new(tiers, state, round, asked):
        asked |= new
        for name, ask in new.items():
            if name in state.found:
                continue
            if row:
                yield Done(row, state), fleet
                row = {}
            answer: Params = {}
            if mine := _holders(tiers, fleet, state, round, ask, jobs):
                step = link.ask(measure(ask, round), state, fleet, mine, round, _least(tiers))
                row = {**step.row, **({"part": ask.part} if ask.part and not round else {})}
                fleet, answer = fleet.told(step, round) if round else fleet, step.answer or {}
                state = replace(state, done=(*state.done, step_name(row["phase"], row.get("part", ""))))
            state = replace(state, found={**state.found, name: answer})
    try:
        model = tiers.method.act(state.model(), _found(state, asked), round)
    except ValueError as error:
        raise MethodError(f"method: {error}") from error
    masks.check(model.masks, model.params)
    model = model._replace(params=masks.apply(model.params, model.masks))
    moments = forgotten(state.moments, model.masks, state.params, model.params)
    state = replace(state.of(model), moments=moments)
    state = replace(state, round=round, found={}, done=(), standing=fleet.standing.text() if round else "")
    if row:
        row["density"] = state.density()
    elif not round:
        density = state.view(tiers.parts[0]).density()
        row = {"round": 0, "phase": "choose", "density": density, "seconds": round_seconds(time.perf_counter() - began)}
    yield Done(row, state), fleet


def _new(tiers: Tiers, state: State, round: int, asked: Mapping[str, Ask]) -> dict[str, Ask]:
    wanted = tiers.method.asks(state.model(), round, _found(state, asked))
    new = {name: ask for name, ask in wanted.items() if name not in asked}
    for name, ask in new.items():
        if ask.kind not in measures.names():
            known = ", ".join(measures.names())
            raise MethodError(f"method: round {round} asks {name} of an unknown kind {ask.kind!r}; there are {known}")
    return new


def _found(state: State, asked: Mapping[str, Ask]) -> Found:
    return {name: by_device(state.found[name]) if ask.apart else state.found[name] for name, ask in asked.items()}


def _holders(
    tiers: Tiers, fleet: Fleet, state: State, round: int, ask: Ask, jobs: Mapping[DeviceId, Job]
) -> dict[DeviceId, Job]:
    """Who is asked, and with which job; nobody, where no device could say anything by now."""
    kind, part = measures.find(ask.kind), ask.part or tiers.parts[0]
    if kind.backward:
        # a device that holds a smaller part knows nothing of weights beyond it, so it is not asked
        there = fleet.active(round).nodes
        owners = {device: job for device, job in jobs.items() if job.part == part and device in there}
        if not owners and part not in state.parts:  # a tier that only runs its part, before round 0 is over
            owners = {device: job for device, job in tiers.holders(part, jobs).items() if device in there}
        return {device: _of_whole(job) if part not in state.parts else job for device, job in owners.items()}
    holders = tiers.holders(part, jobs)
    of_development = measures.part_of(kind, ask.args) == measures.DEVELOPMENT
    if of_development and ask.part and not any(device in fleet.selectors for device in holders):
        return {}
    tests = tiers.tests(part, holders, fleet.usable(round))
    return {device: Job(batch=job.batch) if part not in state.parts else job for device, job in tests.items()}


def _of_whole(job: Job) -> Job:
    # before round 0 is over there are no parts yet
    return job._replace(part="", structured=False, inner=(), inner_steps=0)


def _least(tiers: Tiers) -> float | None:
    """The part of the devices that must answer where only those of one part are asked, which may be a single one."""
    return None if len(tiers.parts) == 1 else 0.0
