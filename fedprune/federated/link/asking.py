"""Asking devices: one phase sent over a Flower Grid, replies checked one by one, bytes and faults counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from math import ceil
from types import MappingProxyType
from typing import Any, NamedTuple

from flwr.serverapp import Grid

from fedprune.data.agreement import Agreed
from fedprune.data.agreement import agree as merged
from fedprune.experiment import Experiment
from fedprune.federated.link.exchange import Answers, exchange
from fedprune.federated.rounds.asking import Request, RunStopped, line, round_seconds
from fedprune.federated.rounds.fleet import Expected, Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import ordered
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.federated.rounds.phases.agree import agree
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.standing import ASIDE, Step
from fedprune.types import DeviceId
from fedprune.wire.payload import MEMORY, REFUSED, SECONDS, UNUSED

_LEAST_LIMIT_S = 120.0
_AGAIN_S = 5.0
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
    name_of: Callable[[int], str | None] = lambda node: None
    """Node -> the name that its key belongs to, where that is known."""

    def meet(self, devices: int, state: State) -> Fleet:
        """Wait for the experiment's ``devices`` devices and ask every node who it is.

        RunStopped where less than the experiment's least part of them is there when the patience ends.
        """
        least, named = self.experiment.least_replies, self.experiment.data.partition == "own"
        expected = Expected(devices, least, self.gives, named)
        return self._gathered(Fleet({}, (), expected=expected), state, max(0, state.round), devices)

    def agree(self) -> Agreed:
        """Ask devices with their own data what it is like: classes, shape, constants, and how many examples each has.

        RunStopped where too few answer; DataError where what they have is nothing to train on.
        """
        data = self.experiment.data
        wanted = data.devices or self.wanted
        nodes = self._connected(wanted or 1, time.monotonic() + self.patience_s)
        if not wanted and self.first_limit_s:  # others may be on their way
            time.sleep(_AGAIN_S)
            nodes = sorted(self.grid.get_node_ids())
        phase, limit = agree(data), self.experiment.deadline_s or self.first_limit_s or None
        asked = Request(phase, State(0, {}), {}, 0), dict.fromkeys(nodes, Job())
        said = exchange(self.grid, self.experiment, [asked], {}, Fleet({}, ()), limit)[0]
        faults, replies = dict(said.faults), dict[DeviceId, Reply]()
        for node, reply in sorted(said.good, key=lambda answer: answer[0]):
            if why := self._other(node, reply.device) or ("has a name that another has" * (reply.device in replies)):
                faults[node] = f"says that it is {reply.device}, but {why}"
            else:
                replies[reply.device] = reply
        for node, why in faults.items():
            self.say({"notice": f"{self.name_of(node) or f'node {node}'} takes no part yet: {why}"})
        if len(replies) < max(1.0, self.experiment.least_replies * wanted):
            why = "".join(f"; {reason}" for reason in list(faults.values())[:1])
            raise RunStopped(f"{len(replies)} of {wanted or len(nodes)} devices said what data they have{why}")
        agreed = merged(data, phase.reduce(State(0, {}), [replies[device] for device in ordered(replies)]))
        for device, reply in replies.items():
            if unused := reply.payload.values.get(UNUSED):
                what = f"{unused} files, or examples of unknown labels, cannot be used"
                self.say({"notice": f"{device}: {what}; see there: fedprune data check FOLDER --like FILE"})
        for notice in agreed.notices:
            self.say({"notice": notice})
        return agreed

    def _other(self, node: int, device: DeviceId) -> str:
        """Whose key a node has, where devices go by names and that is another's than it says."""
        name = self.name_of(node) if self.experiment.data.partition == "own" else None
        return f"its key is that of {name}" if name is not None and name != device else ""

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """The fleet at the start of a round: without nodes that are gone, with those that came or came back.

        RunStopped where less than the experiment's least part of the devices is there when the patience ends.
        """
        return self._gathered(fleet, state, round, fleet.expected.least * fleet.expected.devices)

    def _gathered(self, fleet: Fleet, state: State, round: int, enough: float) -> Fleet:
        until = time.monotonic() + self.patience_s
        nodes = self._connected(enough, until)
        known = {node: why for node, why in fleet.strangers.items() if node in nodes}
        fleet = fleet.present(nodes)._replace(strangers=known)
        # one that is nobody's may have been mended, but is not worth a message in every round
        due = [node for node in nodes if node not in fleet.nodes.values() and not (node in known and round % ASIDE)]
        due += [fleet.nodes[device] for device in fleet.idle()]
        if due:
            limit = self.experiment.deadline_s or min(self.first_limit_s, _LEAST_LIMIT_S) or None
            asked = Request(profile(), state, {}, round), dict.fromkeys(due, Job())
            said = exchange(self.grid, self.experiment, [asked], {}, fleet, limit)[0]
            others = {node: why for node, reply in said.good if (why := self._other(node, reply.device))}
            there = {device: node for node, device in ((n, r.device) for n, r in said.good) if node not in others}
            answers = [(n, r.device, r.payload) for n, r in said.good if n not in others]
            place = {device: index for index, device in enumerate(ordered(there))}
            answers.sort(key=lambda answer: place[answer[1]])
            fleet = fleet.joined(answers, {**said.faults, **others})
        few = len(fleet.nodes) < fleet.expected.least * fleet.expected.devices
        if few and self.first_limit_s and time.monotonic() < until:
            # a device that lost its power is held for connected for a while, and let in again only after that
            time.sleep(_AGAIN_S)
            rest = self._replace(patience_s=max(0.0, until - time.monotonic()))
            return rest._gathered(fleet._replace(strangers={}), state, round, enough)
        missing = [device for device in fleet.expected.roster() if device not in fleet.nodes]
        if few:
            why = "".join(f"; {reason}" for reason in list(fleet.strangers.values())[:1])
            raise RunStopped(
                f"{self.experiment.name} has {fleet.expected.devices} devices, but {len(fleet.nodes)} of {len(nodes)} "
                f"nodes answered well (device {missing[0]} is missing){why}"
            )
        return fleet

    def _connected(self, enough: float, until: float) -> list[int]:
        """All nodes, once ``enough`` are connected or it is ``until``; who waits is told how many are."""
        told = -1
        while len(nodes := sorted(self.grid.get_node_ids())) < enough and time.monotonic() < until:
            if len(nodes) != told and self.first_limit_s:
                told = len(nodes)
                self.say({"notice": f"waiting for devices: {told} of {ceil(enough)} are connected"})
            time.sleep(0.1 if not self.first_limit_s else 0.5)
        return nodes

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

        Where too few do, those that did not are asked again, as often as the experiment's ``retries`` say. Without any
        answer, where ``least`` allows that, there is nothing to reduce.

        A device that refuses, since the job would not fit its memory, has answered, but is not part of the result.
        """
        if not asks:
            return []
        started = time.perf_counter()
        limit = self._limit_s([ask.phase.route for ask in asks], fleet)
        by_node = [{fleet.nodes[device]: job for device, job in ask.jobs.items()} for ask in asks]
        index_of = {node: device for device, node in fleet.nodes.items()}
        answers = exchange(self.grid, self.experiment, list(zip(asks, by_node, strict=True)), index_of, fleet, limit)
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
        up = down = retried = 0
        while True:
            everyone += [reply._replace(device=index_of[node]) for node, reply in answers.good]
            heard = {reply.device for reply in everyone}
            named |= {index_of[node]: reason for node, reason in answers.faults.items()}
            named = {index: reason for index, reason in named.items() if index not in heard}
            up, down = up + answers.bytes_up, down + answers.bytes_down
            if len(everyone) >= needed or retried == self.experiment.retries:
                break
            retried += 1
            self.say({"notice": f"round {round}, {phase.route}: asking again, since {_reasons(named)}"})
            time.sleep(self.pause_s)
            # one that was lost may come back, and until then asking it is of no use
            there = self._awaited([fleet.nodes[index] for index in named])
            again = {node: ask.jobs[index_of[node]] for node in there}
            if not again:
                break
            if answers.late and limit_s:
                limit_s *= 2  # one that was late by a little would be late again
            asked = time.perf_counter()
            answers = exchange(self.grid, self.experiment, [(ask, again)], index_of, fleet, limit_s)[0]
            waited_s = max(waited_s, time.perf_counter() - asked)
        place = {device: index for index, device in enumerate(ordered(reply.device for reply in everyone))}
        everyone.sort(key=lambda reply: place[reply.device])
        if len(everyone) < needed:
            few = f"{len(everyone)} of {len(ask.jobs)} devices answered well"
            raise RunStopped(f"round {round}, {phase.route}: {few}. {_reasons(named)}")
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
        row = line(ask, replies, answer, seconds, bytes_up=up, bytes_down=down, faults=named, more=more)
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
