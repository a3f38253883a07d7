"""Asking devices: one phase sent over a Flower Grid, replies checked one by one, bytes and faults counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flwr.serverapp import Grid

from fedprune import tasks
from fedprune.data.agreement import Agreed
from fedprune.experiment import Experiment
from fedprune.federated.link import gathering
from fedprune.federated.link.exchange import Answers, exchange
from fedprune.federated.rounds.asking import Diverged, Request, RunStopped, line, round_seconds
from fedprune.federated.rounds.fleet import Expected, Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import ordered, place
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.standing import Step
from fedprune.types import DeviceId
from fedprune.wire.payload import MEMORY, REFUSED, SECONDS, UNUSED

_LEAST_LIMIT_S = 120.0
_TIMES = 4.0  # as long as the slowest took, a device may take


class Link(NamedTuple):
    """A grid, and the experiment that every message carries: devices keep nothing between messages."""

    grid: Grid
    experiment: Experiment
    patience_s: float = 30.0
    """How long to wait for devices that are not connected: at the start, and where one that is needed was lost."""
    pause_s: float = 1.0
    """How long to wait before devices that answered badly are asked again."""
    first_limit_s: float = 0.0
    """How long a phase may take that no device has done yet, where the experiment has no deadline; later ones get four
    times what the slowest device took. 0 is no limit at all, as where no message can be lost."""
    say: Callable[[dict[str, Any]], None] = lambda row: None
    """Told, as ``notice``, what an operator should know before a phase is done."""
    together: bool = False
    """Whether a round's tests travel with the next round's training, as where each message costs seconds."""
    gives: Mapping[DeviceId, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples: what the experiment gives it, and one that says more is turned away; or
    what a device with its own data said before round 0."""
    wanted: int = 0
    """Of devices with their own data, how many to wait for where the experiment does not say."""
    more: Mapping[str, str] = MappingProxyType({})
    """Values that every request carries besides the experiment."""
    name_of: Callable[[int], str | None] = lambda node: None
    """Node -> the name that its key belongs to, where that is known."""

    def meet(self, devices: int, state: State) -> Fleet:
        """Wait for the experiment's ``devices`` devices and ask every node who it is.

        RunStopped where less than the experiment's least part of them is there when the patience ends.
        """
        least, named = self.experiment.least_replies, self.experiment.data.partition == "own"
        expected = Expected(devices, least, self.gives, named)
        return gathering.gathered(self, Fleet({}, (), expected=expected), state, max(0, state.round), devices)

    def agree(self) -> Agreed:
        """What devices with their own data have: classes, shape, constants, and how many examples each.

        RunStopped where too few answer; DataError where what they have is nothing to train on.
        """
        return gathering.agreed(self)

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """The fleet at the start of a round: without nodes that are gone, with those that came or came back.

        RunStopped where less than the experiment's least part of the devices is there when the patience ends.
        """
        return gathering.gathered(self, fleet, state, round, fleet.expected.least * fleet.expected.devices)

    def ask(
        self,
        phase: Phase[Any],
        state: State,
        fleet: Fleet,
        jobs: Mapping[DeviceId, Job],
        round: int,
        least: float | None = None,
    ) -> Step:
        """Run one phase on these devices, each with its job, as ``ask_all`` does."""
        return self.ask_all([Request(phase, state, jobs, round, least)], fleet)[0]

    def ask_all(self, asks: Sequence[Request], fleet: Fleet) -> list[Step]:
        """Run phases on devices, with one message for each device. RunStopped where too few answer one well.

        Where too few do, those that did not are asked again, as often as the experiment's ``retries`` say, but for
        those whose training diverged. Without any answer, where ``least`` allows that, there is nothing to reduce.

        A device that refuses, since the job would not fit its memory, has answered, but is not part of the result.
        """
        if not asks:
            return []
        started = time.perf_counter()
        limit = self._limit_s([ask.phase.route for ask in asks], fleet)
        by_node = [{fleet.nodes[device]: job for device, job in ask.jobs.items()} for ask in asks]
        index_of = {node: device for device, node in fleet.nodes.items()}
        answers = exchange(
            self.grid, self.experiment, list(zip(asks, by_node, strict=True)), index_of, fleet, limit, self.more
        )
        waited = time.perf_counter() - started
        steps = [self._settled(ask, each, fleet, limit, waited) for ask, each in zip(asks, answers, strict=True)]
        # of a message with several phases, each but the last took what the slowest device says
        spent = [step.row.get("device_seconds", 0.0) for step in steps[:-1]]
        for step, seconds in zip(steps, [*spent, max(0.0, waited - sum(spent))], strict=True):
            step.row["seconds"] = round_seconds(step.row["seconds"] + seconds)
        return steps

    def _limit_s(self, routes: Sequence[str], fleet: Fleet) -> float | None:
        """How long devices may take to answer; None is without limit."""
        if self.experiment.deadline_s or not self.first_limit_s:
            return self.experiment.deadline_s or None
        known = [pace for route in routes if (pace := fleet.slowest_s(route)) is not None]
        return max(_LEAST_LIMIT_S, _TIMES * sum(known)) if len(known) == len(routes) else self.first_limit_s

    def _awaited(self, nodes: Collection[int]) -> list[int]:
        """Those of the nodes that are connected, once all are or the patience ends."""
        until = time.monotonic() + self.patience_s
        while True:
            connected = set(self.grid.get_node_ids())
            there = [node for node in nodes if node in connected]
            if len(there) == len(nodes) or time.monotonic() > until:
                return there
            time.sleep(1)

    def _settled(self, ask: Request, answers: Answers, fleet: Fleet, limit_s: float | None, waited_s: float) -> Step:
        """What came of an ask, once enough have answered well; those that did not are asked again."""
        phase, round, state, started = ask.phase, ask.round, ask.state, time.perf_counter()
        needed = (self.experiment.least_replies if ask.least is None else ask.least) * len(ask.jobs)
        index_of = {fleet.nodes[index]: index for index in ask.jobs}
        everyone: list[Reply] = []
        named: dict[DeviceId, str] = {}
        diverged: set[DeviceId] = set()
        up = down = retried = 0
        while True:
            everyone += [reply._replace(device=index_of[node]) for node, reply in answers.good]
            heard = {reply.device for reply in everyone}
            named |= {index_of[node]: reason for node, reason in answers.faults.items()}
            named = {index: reason for index, reason in named.items() if index not in heard}
            up, down = up + answers.bytes_up, down + answers.bytes_down
            diverged |= {index_of[node] for node in answers.diverged}
            failed = named.keys() - diverged
            if len(everyone) >= needed or retried == self.experiment.retries or not failed:
                break
            retried += 1
            self.say({"notice": f"round {round}, {phase.route}: asking again, since {_reasons(named)}"})
            time.sleep(self.pause_s)
            # one that was lost may come back, and until then asking it is of no use
            there = self._awaited([fleet.nodes[index] for index in named if index in failed])
            again = {node: ask.jobs[index_of[node]] for node in there}
            if not again:
                break
            if answers.late and limit_s:
                limit_s *= 2  # one that was late by a little would be late again
            asked = time.perf_counter()
            answers = exchange(self.grid, self.experiment, [(ask, again)], index_of, fleet, limit_s, self.more)[0]
            waited_s = max(waited_s, time.perf_counter() - asked)
        everyone.sort(key=lambda reply: place(reply.device))
        if len(everyone) < needed:
            few = f"{len(everyone)} of {len(ask.jobs)} devices answered well"
            stop = f"round {round}, {phase.route}: {few}. {_reasons(named)}"
            raise Diverged(stop, self.experiment, round) if diverged else RunStopped(stop)
        grown = {str(reply.device): reply.left_out for reply in everyone if reply.left_out}
        replies = [reply for reply in everyone if REFUSED not in reply.payload.values and not reply.left_out]
        refused = [reply for reply in everyone if REFUSED in reply.payload.values]
        answer = phase.reduce(state, replies) if replies else None
        said = {str(r.device): {key: int(r.payload.values[key]) for key in (REFUSED, MEMORY)} for r in refused}
        unused = {str(r.device): int(r.payload.values[UNUSED]) for r in everyone if UNUSED in r.payload.values}
        late = frozenset(index_of[node] for node in answers.late)
        # whatever it says, no device worked for longer than it was waited for
        took = {
            r.device: min(float(r.payload.values[SECONDS]), waited_s) for r in replies if SECONDS in r.payload.values
        }
        more = {
            **({"device_seconds": max(took.values())} if took else {}),
            **({"late": ordered(late)} if late else {}),
            **({"refused": said} if said else {}),
            **({"retried": retried} if retried else {}),
            **({"unused": unused} if unused else {}),
            **({"grown": grown} if grown else {}),
            **fleet.notes(round),
        }
        seconds = time.perf_counter() - started
        task = tasks.named(self.experiment.task)
        row = line(task, ask, replies, answer, seconds, bytes_up=up, bytes_down=down, faults=named, more=more)
        return Step(
            row,
            answer,
            memory_bytes={r.device: int(r.payload.values[MEMORY]) for r in everyone if MEMORY in r.payload.values},
            refused={reply.device: reply.job.needs_bytes for reply in refused},
            good=frozenset(reply.device for reply in everyone),
            bad=frozenset(named),
            late=late,
            seconds=took,
            limit_s=limit_s or 0.0,
            route=phase.route,
        )


def _reasons(faults: Mapping[DeviceId, str]) -> str:
    return "; ".join(f"device {index}: {reason}" for index, reason in list(faults.items())[:3])
