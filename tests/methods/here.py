"""Runs in this process, without Flower: the same rounds and the same halves of phases, called straight away."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

import dealt
from msgspec.structs import replace

from fedprune.experiment import Experiment, from_json, to_json
from fedprune.federated.link.client import ROUTES
from fedprune.federated.rounds.acting import Done
from fedprune.federated.rounds.asking import Request, line
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.fleet import Expected, Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.rounds import run
from fedprune.federated.rounds.standing import Step
from fedprune.federated.rounds.tiers import Tiers
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import Setting, prepare
from fedprune.tasks import CLASSIFICATION
from fedprune.wire.payload import MEMORY, Payload

_UNLIMITED = 2**60


@dataclass(frozen=True)
class Here:
    """Whoever holds the data, in this process; replies are checked as those over a link are."""

    experiment: Experiment
    devices: tuple[Device, ...]
    together: bool = False
    more: Mapping[str, str] = field(default_factory=dict)
    """Values that every request carries: with `Setting.more`, the devices train natively where they can."""

    def meet(self, devices: int, state: State) -> Fleet:
        """All of them, each with memory without end."""
        said = [(k, k, _unlimited(profile().device(device, Payload()))) for k, device in enumerate(self.devices)]
        return Fleet({}, (), expected=Expected(devices, self.experiment.least_replies)).joined(said, {})

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """Nobody goes away."""
        return fleet

    def ask(
        self, phase: Phase[Any], state: State, fleet: Fleet, jobs: Mapping[int, Job], round: int, least: Any = None
    ) -> Step:
        """Run one phase on these devices, each with its job."""
        return self.ask_all([Request(phase, state, jobs, round, least)], fleet)[0]

    def ask_all(self, asks: Sequence[Request], fleet: Fleet) -> list[Step]:
        """Run phases on devices, one after the other."""
        return [self._asked(ask) for ask in asks]

    def _asked(self, ask: Request) -> Step:
        phase, replies = ask.phase, []
        for device, job in sorted(ask.jobs.items()):
            request = phase.request(ask.state, job)
            request = request._replace(values={**request.values, **self.more})
            answer = ROUTES[phase.route](self.devices[device], request)
            phase.check(ask.state, job, answer)
            replies.append(Reply(device, answer, job))
        answer = phase.reduce(ask.state, replies) if replies else None
        return Step(
            line(CLASSIFICATION, ask, replies, answer, 0.0), answer, good=frozenset(ask.jobs), route=phase.route
        )


def _unlimited(said: Payload) -> Payload:
    return said._replace(values={**said.values, MEMORY: _UNLIMITED})


def fleet_of(setting: Setting) -> Here:
    """The devices of an experiment."""
    return Here(setting.experiment, dealt.devices(setting))


def steps(setting: Setting, state: State, tiers: Tiers | None = None, *, native: bool = False) -> Iterator[Done]:
    """Every step from ``state`` to the last round; ``native``, as devices with the compiled trainer take it."""
    asking = replaced(fleet_of(setting), more=setting.more() if native else {})
    yield from run(asking, tiers or setting.tiers(), len(asking.devices), state)


@functools.lru_cache(maxsize=64)
def first(text: str) -> State:
    """The state before round 0 of an experiment, as JSON; the method has no part in it."""
    return pretrain(prepare(from_json(text), "test"))


def dense(experiment: Experiment) -> State:
    """The state before round 0 of an experiment: the same for every method."""
    begun = first(to_json(replace(experiment, method={"name": "fedavg"}, rounds=1, evaluate_every=1)))
    # arrays of its own: a method that moves what it is given would else move it for all that come after
    return replaced(begun, params={name: value.copy() for name, value in begun.params.items()})


def accuracy(experiment: Experiment) -> float:
    """Of the last test of a run, over all devices' test parts."""
    rows = [step.row for step in steps(prepare(experiment, "test"), dense(experiment), native=True)]
    return float(next(row["accuracy"] for row in reversed(rows) if row.get("phase") == "evaluate"))
