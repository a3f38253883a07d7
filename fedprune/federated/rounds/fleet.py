"""The devices of a run as the server knows them: their nodes, what they hold, and what they have earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fedprune.data.parts import PARTS
from fedprune.federated.rounds.jobs import Job, Room
from fedprune.federated.rounds.naming import ordered
from fedprune.federated.rounds.standing import ASIDE, PATIENCE, Standing, Step, standing_of
from fedprune.types import DeviceId
from fedprune.wire.payload import COMPILED, MEMORY, Payload

_GROWTH, _MORE = 1.5, 16
_ROUNDS_OF_GROWTH = 64


class Expected(NamedTuple):
    """What the experiment says of its devices."""

    devices: int = 0
    """How many there should be."""
    least: float = 0.0
    """The part of them without which no round is worth it."""
    gives: Mapping[DeviceId, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples: what the experiment gives it, or what it said before round 0."""
    named: bool = False
    """Whether devices have data of their own, and go by name: any may come, and what they hold may grow."""

    def roster(self) -> Sequence[DeviceId]:
        """The devices that should be there."""
        return ordered(self.gives) if self.named else range(self.devices)


class Fleet(NamedTuple):
    """The devices of a run."""

    nodes: Mapping[DeviceId, int]
    """Device -> Flower's node."""
    trainers: tuple[DeviceId, ...]
    """Devices that hold training examples, in order."""
    selectors: tuple[DeviceId, ...] = ()
    """Devices that hold development examples, in order."""
    memory_bytes: Mapping[DeviceId, int] = MappingProxyType({})
    """What each device's process may use, as it says itself."""
    compiled: frozenset[DeviceId] = frozenset()
    """Devices that have the compiled trainer."""
    holds: Mapping[DeviceId, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples, as it said when it was met."""
    strangers: Mapping[int, str] = MappingProxyType({})
    """Node that is nobody's -> why."""
    expected: Expected = Expected()
    standing: Standing = Standing()

    def usable(self, round: int) -> dict[DeviceId, Room]:
        """What each device's process may use in a round, less where a job that seemed to fit has just failed."""
        left = self.standing.usable(self.memory_bytes, round)
        return {device: Room(most, device in self.compiled) for device, most in left.items()}

    def told(self, step: Step, round: int) -> Fleet:
        """The fleet with what devices said, or did not say, in a step of ``round``."""
        memory = {**self.memory_bytes, **step.memory_bytes}
        told = self._replace(memory_bytes=memory, standing=self.standing.after(step, round))
        return told._watched(step, round) if step.bad or self.standing.missed else told

    def slowest_s(self, route: str) -> float | None:
        """What the slowest of the devices that are here took for a phase; None where none has done it yet."""
        pace_s = self.standing.pace_s.get(route, {})
        return max((s for device, s in pace_s.items() if device in self.nodes), default=None)

    def lighter(self, jobs: Mapping[DeviceId, Job]) -> dict[DeviceId, Job]:
        """Jobs of training, with fewer examples for devices that were too slow."""
        return {device: job._replace(share=0.5 ** self.standing.slow.get(device, 0)) for device, job in jobs.items()}

    def _watched(self, step: Step, round: int) -> Fleet:
        """The fleet with faults counted, and those set aside that keep failing, as long as enough are left."""
        had, phase = self.standing, step.row["phase"]
        aside = dict(had.aside)
        missed = {key: times for key, times in had.missed.items() if key[1] != phase or key[0] not in step.good}
        for device in ordered(step.bad):
            missed[device, phase] = missed.get((device, phase), 0) + 1
            left = sum(aside.get(each, 0) <= round for each in self.nodes) - 1
            if missed[device, phase] >= PATIENCE and left >= max(1, self.expected.least * self.expected.devices):
                aside[device] = round + ASIDE
                missed[device, phase] = PATIENCE - 1  # one more fault, and it is set aside again
        return self._replace(standing=had._replace(missed=missed, aside=aside))

    def active(self, round: int) -> Fleet:
        """The fleet of those that are asked in a round."""
        away = self.standing.away(round)
        return self.only([device for device in self.nodes if device not in away]) if away else self

    def only(self, devices: Sequence[DeviceId]) -> Fleet:
        """The fleet of these devices."""
        return self._replace(
            nodes={device: self.nodes[device] for device in devices},
            trainers=tuple(device for device in self.trainers if device in devices),
            selectors=tuple(device for device in self.selectors if device in devices),
        )

    def present(self, nodes: Sequence[int]) -> Fleet:
        """The fleet of those whose nodes are connected."""
        there = set(nodes)
        gone = any(node not in there for node in self.nodes.values())
        return self.only([device for device, node in self.nodes.items() if node in there]) if gone else self

    def most(self, device: DeviceId | None, round: int) -> Mapping[str, int] | None:
        """Part of a device's data -> examples that it may say in a round to have; None for a node that nobody knows.

        Nobody else can count a device's own recordings. They are believed to be what it said before round 0, and to
        grow by half and sixteen in a round. One that comes later is believed to have as many as anybody did then.
        """
        if device is None or device not in self.holds:
            return None
        if not self.expected.named:
            return self.holds[device]
        first = self.expected.gives.get(device) or self._as_any(self.holds[device])
        rounds = max(1, round)  # what comes before the first takes its time as well
        times = _GROWTH ** min(rounds, _ROUNDS_OF_GROWTH)
        return {part: int(examples * times) + _MORE * rounds for part, examples in first.items()}

    def _as_any(self, said: Mapping[str, int]) -> dict[str, int]:
        """What a device says, of each part at most what any said before round 0."""
        begun = self.expected.gives.values()
        return {part: min(count, max((each[part] for each in begun), default=count)) for part, count in said.items()}

    def idle(self) -> list[DeviceId]:
        """Devices with own data that had nothing to train on when they were met, but may have by now."""
        return [device for device in self.nodes if self.expected.named and device not in self.trainers]

    def joined(self, answers: Sequence[tuple[int, DeviceId, Payload]], faults: Mapping[int, str]) -> Fleet:
        """The fleet with (node, device, profile) of nodes that nobody knew, and why others are still nobody's.

        A device that is already there keeps its node unless that one has failed just now: a node cannot take over
        another's place, but one that was started again may come before its old connection is given up.
        """
        nodes, strangers = dict(self.nodes), {**self.strangers, **faults}
        memory, holds, missed = dict(self.memory_bytes), dict(self.holds), self.standing.missed
        compiled = set(self.compiled)
        for node, device, profile in answers:
            strangers.pop(node, None)
            failing = any(times for (k, _), times in missed.items() if k == device)
            taken = nodes.get(device, node) != node and not failing
            if why := self._turned_away(device, profile, taken=taken):
                strangers[node] = why
            else:
                nodes[device] = node
                memory[device] = int(profile.values[MEMORY])
                (compiled.add if profile.values[COMPILED] else compiled.discard)(device)
                holds[device] = {part: int(profile.values[part]) for part in PARTS}
        new = {device for device in nodes if nodes[device] != self.nodes.get(device)}
        heard = new | {device for _, device, _ in answers if device in nodes}
        trainers = {*self.trainers} - heard | {device for device in heard if holds[device]["train"]}
        selectors = {*self.selectors} - heard | {device for device in heard if holds[device]["development"]}
        return self._replace(
            nodes={device: nodes[device] for device in ordered(nodes)},
            trainers=tuple(ordered(trainers)),
            selectors=tuple(ordered(selectors)),
            memory_bytes=memory,
            compiled=frozenset(compiled),
            holds=holds,
            strangers=strangers,
            standing=self.standing.without(new),
        )

    def _turned_away(self, device: DeviceId, profile: Payload, *, taken: bool) -> str:
        """Why a node that says that it is this device is not; empty where it is."""
        given = {} if self.expected.named else self.expected.gives.get(device, {})
        over = [part for part in PARTS if int(profile.values[part]) > given.get(part, int(profile.values[part]))]
        if isinstance(device, str) != self.expected.named:
            has = "goes by a name" if isinstance(device, str) else "has a number and no name"
            return f"{has}, but devices {'go by names' if self.expected.named else 'have numbers'} in this experiment"
        if isinstance(device, int) and not device < self.expected.devices:
            return f"says that it is device {device} of {self.expected.devices}, which count from 0"
        if taken:
            return f"says that it is device {device}, which another node is"
        if over:  # it would buy weight in every average
            said = f"says that it has {profile.values[over[0]]} {over[0]} examples"
            return f"{said}; the experiment gives device {device} {given[over[0]]}"
        return ""

    def as_before(self, standing: str) -> Fleet:
        """The fleet with what ``standing`` said of its devices; ``""`` says nothing. ValueError for any other text."""
        return self._replace(standing=standing_of(standing)) if standing else self

    def notes(self, round: int) -> dict[str, dict[str, Any]]:
        """What a line of metrics says of devices that are not asked; nothing where all are."""
        aside = {str(k): f"until round {until}" for k, until in self.standing.aside.items() if round <= until}
        away = [str(device) for device in self.expected.roster() if device not in self.nodes]
        absent = {device: "not connected" for device in away if device not in aside}
        strangers = {str(node): why for node, why in self.strangers.items()}
        found = {"aside": aside, "absent": absent, "strangers": strangers}
        return {key: said for key, said in found.items() if said}
