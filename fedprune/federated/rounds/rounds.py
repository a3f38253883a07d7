"""The server's side: runs a method's rounds over whoever holds the data, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedprune.counter_rng import generator
from fedprune.experiment import Experiment
from fedprune.federated.rounds.acting import Done, acted, started
from fedprune.federated.rounds.asking import Asking, Request, RunStopped
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State, step_name, without_own
from fedprune.federated.rounds.naming import ordered
from fedprune.federated.rounds.phases.evaluate import evaluate
from fedprune.federated.rounds.phases.measure import measure
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.phases.train import train
from fedprune.federated.rounds.standing import Step
from fedprune.federated.rounds.tiers import Tiers
from fedprune.graph import Graph
from fedprune.tasks import named
from fedprune.training.divergence import exploded
from fedprune.types import Ask, DeviceId, FloatTensor

SELECTED = "selected/"
"""Prefix, in a state's notes, of the masks that training began with."""
_RANGES = "ranges/"
_FIRST_LOSS = "first loss/"
_TRAIN, _TEST = "train", "evaluate"


Steps = Generator[Done, None, State]
"""Yields each phase as it is done; returns the state after the last."""
WithFleet = Generator[Done, None, tuple[State, Fleet]]
"""The same, and the fleet with what devices said meanwhile."""


def run(
    link: Asking,
    tiers: Tiers,
    devices: int,
    state: State,
    shipped: Callable[[State], Graph] | None = None,
    ended: Callable[[Fleet], None] = lambda fleet: None,
) -> Steps:
    """Take ``state`` to the experiment's last round, phase by phase.

    A state of round −1 is a dense pretrained model: the method starts with it first. Any state that a step gave goes on
    after that step, to the same model as if it had never stopped. With ``shipped``, from a view of the last state to
    the graph that its file will hold, devices measure its ranges in the end. ``ended`` gets the fleet as it is then.
    Raises RunStopped.
    """
    fleet = link.meet(devices, state).as_before(state.standing)
    if state.round < 0:
        state, fleet = yield from _begun(link, fleet, tiers, state)
    for round in range(state.round + 1, link.experiment.rounds + 1):
        state, fleet = yield from _round(link, fleet, tiers, state, round)
    state, fleet = yield from _tested(link, fleet, tiers, state)
    if shipped is not None:
        state = yield from _ranges(link, fleet.active(state.round), tiers, state, shipped)
    ended(fleet)
    return state


def _ranges(link: Asking, fleet: Fleet, tiers: Tiers, state: State, shipped: Callable[[State], Graph]) -> Steps:
    """Of every part the ranges that its file needs, over the training parts of all devices that can hold it."""
    for part in tiers.parts:
        if measured(state, part) is not None:
            continue
        jobs = tiers.tests(part, fleet.trainers, fleet.usable(state.round))
        if not jobs:
            raise RunStopped(
                f"round {state.round}: no device has the memory to measure the ranges of {part or 'the model'}"
            )
        asked = Ask("ranges", shipped(state.view(part)), part=part)
        step = link.ask(measure(asked, state.round), state, fleet, jobs, state.round)
        if step.answer:
            state = replace(state, notes={**state.notes, _RANGES + part: step.answer["ranges"]})
        if measured(state, part) is None:
            raise RunStopped(
                f"round {state.round}: every device refused to measure the ranges of {part or 'the model'}"
            )
        yield Done({**step.row, **({"part": part} if part else {})}, state)
    return state


def measured(state: State, part: str) -> FloatTensor | None:
    """The ranges of the finished model of ``part``, (tensors, 2); None where devices have not measured them."""
    return state.notes.get(_RANGES + part)


def _begun(link: Asking, fleet: Fleet, tiers: Tiers, state: State) -> WithFleet:
    """Round 0: how the method starts, and what it asks and does before any training."""
    jobs = tiers.jobs(fleet.trainers, fleet.usable(0))
    dense = state
    for done, heard in acted(link, fleet, tiers, started(tiers, state), 0, jobs):
        fleet = heard
        if done.state.round == 0:
            selected = {SELECTED + name: mask for name, mask in done.state.masks.items()}
            state = replace(done.state, notes={**done.state.notes, **selected})
        else:  # until the method has acted a run goes on from the dense model, and asks only for what is not found
            state = replace(dense, found=done.state.found, done=done.state.done)
        yield Done(done.row, state)
    return state, fleet


def _round(link: Asking, fleet: Fleet, tiers: Tiers, state: State, round: int) -> WithFleet:
    """Train, then let the method act. Tests of the round before, where they are due, come first."""
    experiment = link.experiment
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
        tests = _tests(link, tiers, state, due)
        own, mine = tiers.owned(tiers.moved(state, round), jobs, round)
        training = Request(train(experiment, round, tiers.method, tiers.locals), own, mine, round)
        *answers, step = link.ask_all([*tests, training], fleet)
        for part, answer in zip(due, answers, strict=True):
            state, fleet = _heard_test(state, fleet, answer, part)
            yield _of_part(answer, state, part)
        fleet = fleet.told(step, round)
        after = fleet.lighter(tiers.jobs(asked, fleet.usable(round + 1)))
        trained = without_own(step.answer or own)
        state = replace(trained, done=(*state.done, _TRAIN), standing=fleet.standing.text())
        yield Done({**step.row, **_changes(asked, jobs, after)}, state)
    elif not jobs:
        state, fleet = yield from _tested(link, fleet, tiers, state)
        state = tiers.moved(state, round)
    for done, heard in acted(link, fleet, tiers, state, round, jobs):
        yield done
        state, fleet = done.state, heard
    return state, fleet


def _tested(link: Asking, fleet: Fleet, tiers: Tiers, state: State) -> WithFleet:
    """Every part on every device's test part, where that is due.

    Returns also the fleet, with what devices say of their memory: one that sat out may have more by now.
    """
    due = _due(link.experiment, fleet, tiers, state)
    # where a message costs nothing, a device need not hold all parts at once
    for parts in [[*due]] if link.together else [[part] for part in due]:
        asks = _tests(link, tiers, state, {part: due[part] for part in parts})
        for part, answer in zip(parts, link.ask_all(asks, fleet), strict=True):
            state, fleet = _heard_test(state, fleet, answer, part)
            yield _of_part(answer, state, part)
    return state, fleet


def _tests(link: Asking, tiers: Tiers, state: State, due: Mapping[str, Mapping[DeviceId, Job]]) -> list[Request]:
    test = evaluate(named(link.experiment.task), link.experiment.evaluate_on)
    return [Request(test, *tiers.owned(state, jobs, state.round), state.round) for jobs in due.values()]


def _due(experiment: Experiment, fleet: Fleet, tiers: Tiers, state: State) -> dict[str, dict[DeviceId, Job]]:
    """Parts that are to be tested after the state's round -> the devices that can."""
    round, found = state.round, {}
    if round % experiment.evaluate_every == 0 or round == experiment.rounds:
        for part in tiers.parts:
            if step_name(_TEST, part) not in state.done:
                found[part] = tiers.tests(part, fleet.active(round).nodes, fleet.usable(round))
    return {part: jobs for part, jobs in found.items() if jobs}


def _heard_test(state: State, fleet: Fleet, answer: Step, part: str) -> tuple[State, Fleet]:
    """The state with a test among what is done, and the fleet with what it said."""
    # a test that failed says nothing of what training would take
    heard = fleet.told(answer._replace(refused={}), state.round)
    if (loss := answer.row.get("loss")) is not None:
        state = replace(state, notes={_FIRST_LOSS + part: np.asarray(loss, np.float64), **state.notes})
    return replace(state, done=(*state.done, step_name(_TEST, part)), standing=heard.standing.text()), heard


def _of_part(answer: Step, state: State, part: str) -> Done:
    """The line of a part's test, which says where the loss has exploded since the part's first test."""
    of_part = {"part": part, "density": state.view(part).density()} if part else {}
    loss, first = answer.row.get("loss"), state.notes.get(_FIRST_LOSS + part)
    if loss is not None and first is not None and exploded(loss, float(first)):
        of_part["diverged"] = f"the loss is {loss:.3g}, and was {float(first):.3g} in the first test"
    return Done({**answer.row, **of_part}, state)


def _heard(link: Asking, fleet: Fleet, tiers: Tiers, state: State, round: int) -> Fleet:
    """The fleet, with word from devices that sit out: nobody else asks whether they have memory again."""
    active = fleet.active(round)
    able = tiers.jobs(active.trainers, fleet.usable(round))
    if not (idle := [device for device in active.trainers if device not in able]):
        return fleet
    return fleet.told(link.ask(profile(), state, fleet, dict.fromkeys(idle, Job()), round, 0.0), round)


def _changes(
    asked: Sequence[DeviceId], jobs: Mapping[DeviceId, Job], after: Mapping[DeviceId, Job]
) -> dict[str, dict[str, str]]:
    """What devices will do from the next round on, where that differs, since their memory does or they were late."""
    changed = [device for device in asked if after.get(device) != jobs.get(device)]
    found = {str(k): after[k].words() if k in after else "nothing: none fits" for k in changed}
    return {"replanned": found} if found else {}


def participants(experiment: Experiment, trainers: Sequence[DeviceId], round: int) -> list[DeviceId]:
    """The devices that train in a round: a sample that seed and round decide, in order."""
    count = max(1, round_half_up(experiment.training.participation * len(trainers)))
    chosen = generator(experiment.seed, "participants", round).choice(len(trainers), count, replace=False)
    return ordered(trainers[i] for i in chosen)


def round_half_up(value: float) -> int:
    """The nearest whole number, halves upwards."""
    return int(value + 0.5)
