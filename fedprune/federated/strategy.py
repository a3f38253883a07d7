"""The server's side: runs a method's phases over any Flower Grid, one round after the other."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from fedprune import masks
from fedprune.counter_rng import generator
from fedprune.experiment import Experiment
from fedprune.federated.link import Fleet, Link, Step, round_seconds
from fedprune.federated.phases.candidates import candidate_loss, candidate_statistics
from fedprune.federated.phases.evaluate import evaluate
from fedprune.federated.phases.grow import grow, update
from fedprune.federated.phases.train import train
from fedprune.federated.state import State
from fedprune.methods import MethodError
from fedprune.types import Method

SELECTED = "selected/"
"""Prefix, in a state's memory, of the masks that training began with."""

Steps = Generator[Step, None, State]
"""Yields each phase as it is done; returns the state after the last."""


def run(link: Link, method: Method, layers: Sequence[str], devices: int, state: State) -> Steps:
    """Take ``state`` to the experiment's last round, phase by phase.

    A state of round −1 is a dense pretrained model: candidates over ``layers`` are drawn and one is chosen first. A
    later state goes on after its round, to the same model as if it had never stopped. Raises RunStopped.
    """
    fleet = link.meet(devices, state)
    if state.round < 0:
        state = yield from _choose(link, fleet, method, layers, state)
    for round in range(state.round + 1, link.experiment.rounds + 1):
        state = yield from _round(link, fleet, method, state, round)
    return state


def _choose(link: Link, fleet: Fleet, method: Method, layers: Sequence[str], state: State) -> Steps:
    """Round 0: coarse masks, one of them chosen, and how it does before any training."""
    started = time.perf_counter()
    try:
        candidates = method.candidates({name: state.params[name] for name in layers})
    except ValueError as error:
        raise MethodError(f"method: {error}") from error
    if len(candidates) > 1:
        if method.merge is not None:
            step = link.ask(candidate_statistics(candidates, method.merge), state, fleet, fleet.trainers, 0)
            yield step
            state = step.state
        step = link.ask(candidate_loss(candidates), state, fleet, fleet.trainers, 0)
        state = step.state
        yield step
    else:
        state = State(0, masks.apply(state.params, candidates[0]), candidates[0])
        row = {"round": 0, "phase": "choose", "density": state.density()}
        yield Step({**row, "seconds": round_seconds(time.perf_counter() - started)}, state)
    state = State(0, state.params, state.masks, {**state.memory, **{SELECTED + n: m for n, m in state.masks.items()}})
    yield link.ask(evaluate(), state, fleet, list(fleet.nodes), 0)._replace(complete=True)
    return state


def _round(link: Link, fleet: Fleet, method: Method, state: State, round: int) -> Steps:
    experiment, pruner = link.experiment, method.update
    devices = participants(experiment, fleet.trainers, round)
    step = link.ask(train(experiment, round), state, fleet, devices, round)
    state = step.state
    yield step
    counts = pruner.grows(state.masks, round) if pruner is not None and "grad" in pruner.needs else {}
    if pruner is not None and counts:
        step = link.ask(grow(pruner, counts, round, experiment.seed), state, fleet, devices, round)
        state = step.state
        yield step
    elif pruner is not None:
        state = update(state, pruner, {}, round, experiment.seed)
    state = State(round, state.params, state.masks, state.memory)
    if round % experiment.evaluate_every == 0 or round == experiment.rounds:
        yield link.ask(evaluate(), state, fleet, list(fleet.nodes), round)._replace(complete=True)
    else:
        yield Step({}, state, complete=True)
    return state


def participants(experiment: Experiment, trainers: Sequence[int], round: int) -> list[int]:
    """The devices that train in a round: a sample that seed and round decide, in order."""
    count = max(1, round_half_up(experiment.training.participation * len(trainers)))
    chosen = generator(experiment.seed, "participants", round).choice(len(trainers), count, replace=False)
    return sorted(trainers[i] for i in chosen)


def round_half_up(value: float) -> int:
    """The nearest whole number, halves upwards."""
    return int(value + 0.5)
