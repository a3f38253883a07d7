"""The server's side: runs a method's phases over any Flower Grid, one round after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from fedprune import masks
from fedprune.counter_rng import generator
from fedprune.experiment import Experiment
from fedprune.federated.fleet import Fleet, Step
from fedprune.federated.jobs import Job
from fedprune.federated.link import Link, RunStopped, round_seconds
from fedprune.federated.phases.candidates import candidate_loss, candidate_statistics
from fedprune.federated.phases.evaluate import evaluate
from fedprune.federated.phases.grow import grow, update
from fedprune.federated.phases.profile import profile
from fedprune.federated.phases.ranges import measured, ranges
from fedprune.federated.phases.train import train
from fedprune.federated.state import State
from fedprune.federated.tiers import Tiers, drawn, joined, renested, rolled
from fedprune.graph import Graph
from fedprune.methods import MethodError
from fedprune.types import Masks

SELECTED = "selected/"
"""Prefix, in a state's memory, of the masks that training began with."""

Steps = Generator[Step, None, State]
"""Yields each phase as it is done; returns the state after the last."""


def run(
    link: Link,
    tiers: Tiers,
    layers: Sequence[str],
    devices: int,
    state: State,
    shipped: Callable[[State], Graph] | None = None,
) -> Steps:
    """Take ``state`` to the experiment's last round, phase by phase.

    A state of round −1 is a dense pretrained model: candidates over ``layers`` are drawn and one is chosen first. A
    later state goes on after its round, to the same model as if it had never stopped. With ``shipped``, from a view of
    the last state to the graph that its file will hold, devices measure its ranges in the end. Raises RunStopped.
    """
    fleet = link.meet(devices, state)
    if state.round < 0:
        state = yield from _choose(link, fleet, tiers, layers, state)
    for round in range(state.round + 1, link.experiment.rounds + 1):
        state, fleet = yield from _round(link, fleet, tiers, state, round)
    return (
        (yield from _ranges(link, fleet.active(state.round), tiers, state, shipped)) if shipped is not None else state
    )


def _ranges(link: Link, fleet: Fleet, tiers: Tiers, state: State, shipped: Callable[[State], Graph]) -> Steps:
    """Of every part the ranges that its file needs, over the training parts of all devices that can hold it."""
    for part in tiers.methods:
        if measured(state, part) is not None:
            continue
        jobs = tiers.tests(part, fleet.trainers, fleet.usable(state.round))
        if not jobs:
            raise RunStopped(
                f"round {state.round}: no device has the memory to measure the ranges of {part or 'the model'}"
            )
        step = link.ask(ranges(shipped(state.view(part)), part), state, fleet, jobs, state.round)
        state = step.state
        if measured(state, part) is None:
            raise RunStopped(
                f"round {state.round}: every device refused to measure the ranges of {part or 'the model'}"
            )
        yield step._replace(row={**step.row, **({"part": part} if part else {})}, complete=True)
    return state


def _choose(link: Link, fleet: Fleet, tiers: Tiers, layers: Sequence[str], state: State) -> Steps:
    """Round 0: of every part coarse masks, one of them chosen; and how they do before any training."""
    chosen: dict[str, State] = {}
    jobs, least = tiers.jobs(fleet.trainers, fleet.usable(0)), _least(tiers)
    for part, method in tiers.methods.items():
        started = time.perf_counter()
        larger = next(reversed(chosen.values())).masks if chosen else None
        try:
            candidates = drawn(method, {name: state.params[name] for name in layers}, larger)
        except ValueError as error:
            raise MethodError(f"method: {error}") from error
        named = {"part": part} if part else {}
        selectors = [device for device in tiers.holders(part, jobs) if device in fleet.selectors]
        tests = tiers.tests(part, tiers.holders(part, jobs), fleet.usable(0))
        asked = {device: Job(batch=job.batch) for device, job in tests.items()} if selectors or not part else {}
        if len(candidates) > 1 and asked:  # where no device can hold the part by now, nobody can compare
            told = state
            if method.merge is not None:
                step = link.ask(candidate_statistics(candidates, method.merge), told, fleet, asked, 0, least)
                yield step._replace(row={**step.row, **named})
                told = step.state
            step = link.ask(candidate_loss(candidates), told, fleet, asked, 0, least)
            chosen[part] = step.state if step.state.round == 0 else _first(state, candidates)
            yield step._replace(row={**step.row, **named})
        else:
            chosen[part] = _first(state, candidates)
            row = {"round": 0, "phase": "choose", "density": chosen[part].density(), **named}
            yield Step({**row, "seconds": round_seconds(time.perf_counter() - started)}, chosen[part])
    state = chosen[""] if "" in chosen else joined(state, chosen, next(iter(tiers.methods.values())))
    state = replace(state, memory={**state.memory, **{SELECTED + n: m for n, m in state.masks.items()}})
    yield from _evaluated(link, fleet, tiers, state, 0)
    return state


def _round(
    link: Link, fleet: Fleet, tiers: Tiers, state: State, round: int
) -> Generator[Step, None, tuple[State, Fleet]]:
    experiment, pruner = link.experiment, next(iter(tiers.methods.values())).update
    state = rolled(state, tiers, round - 1)
    fleet = _heard(link, link.again(fleet, state, round), tiers, state, round)
    trainers = fleet.active(round).trainers
    if not trainers:
        raise RunStopped(f"round {round}: no device that holds training examples is connected")
    asked = participants(experiment, trainers, round)
    jobs, before = tiers.jobs(asked, fleet.usable(round)), state
    if not tiers.jobs(trainers, fleet.usable(round)):
        raise RunStopped(f"round {round}: no device has the memory to train any part of the model")
    if jobs:
        step = link.ask(train(experiment, round), state, fleet, jobs, round)
        fleet = fleet.told(step, round)
        row = {**step.row, **_changes(jobs, {k: tiers.job(k, fleet.usable(round + 1).get(k)) for k in asked})}
        before = state = step.state
        yield step._replace(row=row)
    largest = next(iter(tiers.methods))
    there = fleet.active(round).nodes
    owners = {device: job for device, job in jobs.items() if job.part == largest and device in there}
    counts = pruner.grows(state.masks, round) if pruner is not None and "grad" in pruner.needs else {}
    if pruner is not None and counts and owners:
        # a device that holds a smaller part knows nothing of weights beyond it, so it is not asked
        step = link.ask(grow(pruner, counts, round, experiment.seed), state, fleet, owners, round, _least(tiers))
        fleet, state = fleet.told(step, round), step.state
        yield step
    elif pruner is not None and not counts and not tiers.methods[largest].structured:
        state = update(state, pruner, {}, round, experiment.seed)
    state = replace(renested(before, state, tiers, round, experiment.seed), round=round)
    if round % experiment.evaluate_every == 0 or round == experiment.rounds:
        fleet = yield from _evaluated(link, fleet, tiers, state, round)
    else:
        yield Step({}, state, complete=True)
    return state, fleet


def _evaluated(link: Link, fleet: Fleet, tiers: Tiers, state: State, round: int) -> Generator[Step, None, Fleet]:
    """Every part on every device's test part; the round is complete after the last.

    Returns the fleet with what devices say of their memory: one that sat out may have more by now.
    """
    for index, part in enumerate(tiers.methods, 1):
        jobs = tiers.tests(part, fleet.active(round).nodes, fleet.usable(round))
        complete = index == len(tiers.methods)
        if not jobs:
            yield Step({}, state, complete)
            continue
        step = link.ask(evaluate(), state, fleet, jobs, round)
        row = {**step.row, **({"part": part, "density": state.view(part).density()} if part else {})}
        yield Step(row, state, complete)
        # a test that failed says nothing of what training would take
        fleet = fleet.told(step._replace(refused={}), round)
    return fleet


def _heard(link: Link, fleet: Fleet, tiers: Tiers, state: State, round: int) -> Fleet:
    """The fleet, with word from devices that sit out: nobody else asks whether they have memory again."""
    active = fleet.active(round)
    able = tiers.jobs(active.trainers, fleet.usable(round))
    if not (idle := [device for device in active.trainers if device not in able]):
        return fleet
    return fleet.told(link.ask(profile(), state, fleet, dict.fromkeys(idle, Job()), round, 0.0), round)


def _first(state: State, candidates: Sequence[Masks]) -> State:
    return State(0, masks.apply(state.params, candidates[0]), candidates[0])


def _least(tiers: Tiers) -> float | None:
    """The part of the devices that must answer where only those of one part are asked, which may be a single one."""
    return None if "" in tiers.methods else 0.0


def _changes(jobs: Mapping[int, Job], next_jobs: Mapping[int, Job | None]) -> dict[str, dict[str, str]]:
    """What devices will do from the next round on, where that differs, since their memory does."""
    found = {str(k): job.words() if job else "nothing: none fits" for k, job in next_jobs.items() if job != jobs.get(k)}
    return {"replanned": found} if found else {}


def participants(experiment: Experiment, trainers: Sequence[int], round: int) -> list[int]:
    """The devices that train in a round: a sample that seed and round decide, in order."""
    count = max(1, round_half_up(experiment.training.participation * len(trainers)))
    chosen = generator(experiment.seed, "participants", round).choice(len(trainers), count, replace=False)
    return sorted(trainers[i] for i in chosen)


def round_half_up(value: float) -> int:
    """The nearest whole number, halves upwards."""
    return int(value + 0.5)
