"""The server's side: runs a method's phases over any Flower Grid, one round after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

from fedprune.counter_rng import generator
from fedprune.experiment import Experiment
from fedprune.federated.rounds.asking import Ask, Asking, RunStopped, round_seconds
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import Part, State, statistics, step_name
from fedprune.federated.rounds.phases.candidates import CHOSEN, candidate_loss, candidate_statistics
from fedprune.federated.rounds.phases.evaluate import evaluate
from fedprune.federated.rounds.phases.grow import grow, update
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.phases.ranges import measured, ranges
from fedprune.federated.rounds.phases.train import train
from fedprune.federated.rounds.standing import Fleet, Step
from fedprune.federated.rounds.tiers import Tiers, drawn, joined, renested, rolled
from fedprune.graph import Graph
from fedprune.methods import MethodError
from fedprune.pruning import masks
from fedprune.types import Masks, Method, Tensor

SELECTED = "selected/"
"""Prefix, in a state's memory, of the masks that training began with."""
_TRAIN, _TEST = "train", "evaluate"

Steps = Generator[Step, None, State]
"""Yields each phase as it is done; returns the state after the last."""


def run(
    link: Asking,
    tiers: Tiers,
    layers: Sequence[str],
    devices: int,
    state: State,
    shipped: Callable[[State], Graph] | None = None,
) -> Steps:
    """Take ``state`` to the experiment's last round, phase by phase.

    A state of round −1 is a dense pretrained model: candidates over ``layers`` are drawn and one is chosen first. Any
    state that a step gave goes on after that step, to the same model as if it had never stopped. With ``shipped``, from
    a view of the last state to the graph that its file will hold, devices measure its ranges in the end. Raises
    RunStopped.
    """
    if _over(link.experiment, tiers, state, shipped is not None):
        return state  # nothing is left to ask, so nobody need be there
    fleet = link.meet(devices, state).as_before(state.standing)
    if state.round < 0:
        state = yield from _choose(link, fleet, tiers, layers, state)
    for round in range(state.round + 1, link.experiment.rounds + 1):
        state, fleet = yield from _round(link, fleet, tiers, state, round)
    state, fleet = yield from _tested(link, fleet, tiers, state)
    return (
        (yield from _ranges(link, fleet.active(state.round), tiers, state, shipped)) if shipped is not None else state
    )


def _over(experiment: Experiment, tiers: Tiers, state: State, to_measure: bool) -> bool:
    """Whether every device has done all that it was to do."""
    if state.round < experiment.rounds:
        return False
    tested = all(step_name(_TEST, part) in state.done for part in tiers.methods)
    return tested and not (to_measure and any(measured(state, part) is None for part in tiers.methods))


def _ranges(link: Asking, fleet: Fleet, tiers: Tiers, state: State, shipped: Callable[[State], Graph]) -> Steps:
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
        yield step._replace(row={**step.row, **({"part": part} if part else {})})
    return state


def _choose(link: Asking, fleet: Fleet, tiers: Tiers, layers: Sequence[str], state: State) -> Steps:
    """Round 0: of every part coarse masks, one of them chosen.

    Until all are, the state is the dense model of round −1, and its parts are those that have been chosen.
    """
    dense, found, done = State(-1, state.params), dict(state.parts), state.done
    kept = {key: value for key, value in state.memory.items() if key == CHOSEN}
    told = {key: value for key, value in state.memory.items() if key != CHOSEN}  # statistics of the part that is next
    jobs, least = tiers.jobs(fleet.trainers, fleet.usable(0)), _least(tiers)
    for part, method in tiers.methods.items():
        if part in found:
            continue
        started = time.perf_counter()
        larger = next(reversed(found.values())).masks if found else None
        try:
            candidates = drawn(method, {name: state.params[name] for name in layers}, larger)
        except ValueError as error:
            raise MethodError(f"method: {error}") from error
        named = {"part": part} if part else {}
        selectors = [device for device in tiers.holders(part, jobs) if device in fleet.selectors]
        tests = tiers.tests(part, tiers.holders(part, jobs), fleet.usable(0))
        asked = {device: Job(batch=job.batch) for device, job in tests.items()} if selectors or not part else {}
        if len(candidates) > 1 and asked:  # where no device can hold the part by now, nobody can compare
            if method.merge is not None and not told:
                step = link.ask(candidate_statistics(candidates, method.merge), dense, fleet, asked, 0, least)
                told, done = dict(step.state.memory), (*done, step_name(step.row["phase"], part))
                yield Step({**step.row, **named}, State(-1, state.params, {}, {**kept, **told}, found, done))
            step = link.ask(candidate_loss(candidates), replace(dense, memory=told), fleet, asked, 0, least)
            best, row = step.state if step.state.round == 0 else _first(dense, candidates), step.row
        else:
            best = _first(dense, candidates)
            row = {"round": 0, "phase": "choose", "density": best.density()}
            row["seconds"] = round_seconds(time.perf_counter() - started)
        kept, told = kept if found else dict(best.memory), {}
        found = {**found, part: Part(best.masks, statistics(best.params))}
        done = (*done, step_name(row["phase"], part))
        if len(found) < len(tiers.methods):
            yield Step({**row, **named}, State(-1, state.params, {}, kept, found, done))
        else:
            state = _chosen(dense, found, kept, next(iter(tiers.methods.values())))
            yield Step({**row, **named}, state)
    return state


def _chosen(dense: State, found: Mapping[str, Part], memory: Mapping[str, Tensor], method: Method) -> State:
    """The state that training begins with: ``dense`` under the masks that were chosen for its parts."""
    views = {
        name: State(0, masks.apply({**dense.params, **part.buffers}, part.masks), part.masks, memory)
        for name, part in found.items()
    }
    state = views[""] if "" in views else joined(dense, views, method)
    return replace(state, memory={**state.memory, **{SELECTED + n: m for n, m in state.masks.items()}})


def _round(
    link: Asking, fleet: Fleet, tiers: Tiers, state: State, round: int
) -> Generator[Step, None, tuple[State, Fleet]]:
    """Train, and change masks where it is their turn. Tests of the round before, where they are due, come first."""
    experiment, pruner = link.experiment, next(iter(tiers.methods.values())).update
    if not link.together:
        state, fleet = yield from _tested(link, fleet, tiers, state)
    fleet = _heard(link, link.again(fleet, state, round), tiers, state, round)
    trainers = fleet.active(round).trainers
    if not trainers:
        raise RunStopped(f"round {round}: no device that holds training examples is connected")
    asked = participants(experiment, trainers, round)
    jobs = fleet.lighter(tiers.jobs(asked, fleet.usable(round)))
    if not tiers.jobs(trainers, fleet.usable(round)):
        raise RunStopped(f"round {round}: no device has the memory to train any part of the model")
    if jobs and _TRAIN not in state.done:
        due = _due(experiment, fleet, tiers, state)
        tests = [Ask(evaluate(), state, tested, state.round) for tested in due.values()]
        rolled_on = rolled(state, tiers, round - 1)
        *answers, step = link.ask_all([*tests, Ask(train(experiment, round), rolled_on, jobs, round)], fleet)
        for part, answer in zip(due, answers, strict=True):
            state, fleet = _noted(state, fleet, answer, part)
            yield _of_part(answer, state, part)
        fleet = fleet.told(step, round)
        after = fleet.lighter(tiers.jobs(asked, fleet.usable(round + 1)))
        state = replace(step.state, done=(*state.done, _TRAIN), standing=fleet.standing())
        yield Step({**step.row, **_changes(asked, jobs, after)}, state)
    elif not jobs:
        state, fleet = yield from _tested(link, fleet, tiers, state)
        state = rolled(state, tiers, round - 1)
    before, row = state, {}
    largest = next(iter(tiers.methods))
    there = fleet.active(round).nodes
    owners = {device: job for device, job in jobs.items() if job.part == largest and device in there}
    counts = pruner.grows(state.masks, round) if pruner is not None and "grad" in pruner.needs else {}
    if pruner is not None and counts and owners:
        # a device that holds a smaller part knows nothing of weights beyond it, so it is not asked
        step = link.ask(grow(pruner, counts, round, experiment.seed), state, fleet, owners, round, _least(tiers))
        fleet, state, row = fleet.told(step, round), step.state, step.row
    elif pruner is not None and not counts and not tiers.methods[largest].structured:
        state = update(state, pruner, {}, round, experiment.seed)
    state = renested(before, state, tiers, round, experiment.seed)
    state = replace(state, round=round, done=(), standing=fleet.standing())
    yield Step(row, state)
    return state, fleet


def _tested(link: Asking, fleet: Fleet, tiers: Tiers, state: State) -> Generator[Step, None, tuple[State, Fleet]]:
    """Every part on every device's test part, where that is due.

    Returns also the fleet, with what devices say of their memory: one that sat out may have more by now.
    """
    for part in _due(link.experiment, fleet, tiers, state):
        jobs = tiers.tests(part, fleet.active(state.round).nodes, fleet.usable(state.round))
        answer = link.ask(evaluate(), state, fleet, jobs, state.round)
        state, fleet = _noted(state, fleet, answer, part)
        yield _of_part(answer, state, part)
    return state, fleet


def _due(experiment: Experiment, fleet: Fleet, tiers: Tiers, state: State) -> dict[str, dict[int, Job]]:
    """Parts that are to be tested after the state's round -> the devices that can."""
    round, found = state.round, {}
    if round % experiment.evaluate_every == 0 or round == experiment.rounds:
        for part in tiers.methods:
            if step_name(_TEST, part) not in state.done:
                found[part] = tiers.tests(part, fleet.active(round).nodes, fleet.usable(round))
    return {part: jobs for part, jobs in found.items() if jobs}


def _noted(state: State, fleet: Fleet, answer: Step, part: str) -> tuple[State, Fleet]:
    """The state with a test among what is done, and the fleet with what it said."""
    # a test that failed says nothing of what training would take
    heard = fleet.told(answer._replace(refused={}), state.round)
    return replace(state, done=(*state.done, step_name(_TEST, part)), standing=heard.standing()), heard


def _of_part(answer: Step, state: State, part: str) -> Step:
    return Step({**answer.row, **({"part": part, "density": state.view(part).density()} if part else {})}, state)


def _heard(link: Asking, fleet: Fleet, tiers: Tiers, state: State, round: int) -> Fleet:
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


def _changes(asked: Sequence[int], jobs: Mapping[int, Job], after: Mapping[int, Job]) -> dict[str, dict[str, str]]:
    """What devices will do from the next round on, where that differs, since their memory does or they were late."""
    changed = [device for device in asked if after.get(device) != jobs.get(device)]
    found = {str(k): after[k].words() if k in after else "nothing: none fits" for k in changed}
    return {"replanned": found} if found else {}


def participants(experiment: Experiment, trainers: Sequence[int], round: int) -> list[int]:
    """The devices that train in a round: a sample that seed and round decide, in order."""
    count = max(1, round_half_up(experiment.training.participation * len(trainers)))
    chosen = generator(experiment.seed, "participants", round).choice(len(trainers), count, replace=False)
    return sorted(trainers[i] for i in chosen)


def round_half_up(value: float) -> int:
    """The nearest whole number, halves upwards."""
    return int(value + 0.5)
