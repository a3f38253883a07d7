"""One holder of all data, asked in this process: no devices, no messages, no Flower."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from fedprune.experiment import Experiment
from fedprune.federated.rounds.asking import Diverged, Request, RunStopped, line, round_seconds
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.fleet import Expected, Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, Reply, divergence
from fedprune.federated.rounds.standing import Step
from fedprune.pruning import masks
from fedprune.tasks import named
from fedprune.types import DeviceId, Masks
from fedprune.wire.payload import Payload, one_line

_NONE: Masks = {}


class Here(NamedTuple):
    """The only device of a run; what it computes is what it would compute at the other end of a link, bit for bit."""

    device: Device
    more: Mapping[str, str] = MappingProxyType({})
    """Values that every request carries, as over a link."""
    together: bool = False
    """No message costs anything, so tests need not wait for the next round's training."""

    @property
    def experiment(self) -> Experiment:
        """The device's."""
        return self.device.experiment

    def meet(self, devices: int, state: State) -> Fleet:
        """The device as a fleet."""
        index, holds = self.device.who, self.device.parts.sizes()
        mine = {part: (index,) if count else () for part, count in holds.items()}
        return Fleet({index: 0}, mine["train"], mine["development"], holds={index: holds}, expected=Expected(devices))

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """The same: it is always there."""
        return fleet

    def ask(
        self,
        phase: Phase[Any],
        state: State,
        fleet: Fleet,
        jobs: Mapping[DeviceId, Job],
        round: int,
        least: float | None = None,
    ) -> Step:
        """Run a phase on the device. RunStopped, in one line, where it fails: there is nobody else to ask."""
        started, index = time.perf_counter(), self.device.who
        request = phase.request(state, jobs[index])
        request = request._replace(values={**request.values, **self.more})
        try:
            payload = _carried(phase.device(self.device, _carried(request)), request.masks)
            if diverged := divergence.why(payload.values):
                raise Diverged(f"round {round}, {phase.route}: {diverged}", self.experiment, round)
            phase.check(state, jobs[index], payload)
        except Diverged:
            raise
        except Exception as error:
            why = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise RunStopped(f"round {round}, {phase.route}: {one_line(why)}") from error
        replies = [Reply(index, payload, jobs[index])]
        answer = phase.reduce(state, replies)
        spent = round_seconds(time.perf_counter() - started)
        row = line(named(self.experiment.task), Request(phase, state, jobs, round), replies, answer, spent)
        return Step(row, answer, good=frozenset([index]), route=phase.route)

    def ask_all(self, asks: Sequence[Request], fleet: Fleet) -> list[Step]:
        """Run phases one after the other."""
        return [self.ask(each.phase, each.state, fleet, each.jobs, each.round) for each in asks]


def _carried(payload: Payload, known: Masks = _NONE) -> Payload:
    """What a link would bring of a payload: plain values, and no −0 where weights are pruned."""
    values = msgspec.json.decode(msgspec.json.encode(dict(payload.values)))
    given = {name: mask for name, mask in {**known, **payload.masks}.items() if name in payload.tensors}
    # what is not 0 there stays, and is refused
    under = {name: mask | (payload.tensors[name] != 0) for name, mask in given.items()}
    return payload._replace(values=values, tensors=masks.apply(payload.tensors, under))
