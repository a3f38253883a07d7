"""The devices of a run as the server knows them: their nodes, what they hold, and what they have earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases.profile import PARTS
from fedprune.federated.rounds.standing import ASIDE, PATIENCE, Standing, Step, standing_of
from fedprune.wire.payload import MEMORY, Payload


class Expected(NamedTuple):
    """What the experiment says of its devices."""

    devices: int = 0
    """How many there should be."""
    least: float = 0.0
    """The part of them without which no round is worth it."""
    gives: Mapping[int, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples that the experiment gives it, where the server knows."""


class Fleet(NamedTuple):
    """The devices of a run."""

    nodes: Mapping[int, int]
    """Device -> Flower's node."""
    trainers: tuple[int, ...]
    """Devices that hold training examples, in order."""
    selectors: tuple[int, ...] = ()
    """Devices that hold development examples, in order."""
    memory_bytes: Mapping[int, int] = MappingProxyType({})
    """What each device's process may use, as it says itself."""
    holds: Mapping[int, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples, as it said when it was met."""
    strangers: Mapping[int, str] = MappingProxyType({})
    """Node that is nobody's -> why."""
    expected: Expected = Expected()
    standing: Standing = Standing()

    def usable(self, round: int) -> dict[int, int]:
        """What each device's process may use in a round, less where a job that seemed to fit has just failed."""
        return self.standing.usable(self.memory_bytes, round)

    def told(self, step: Step, round: int) -> Fleet:
        """The fleet with what devices said, or did not say, in a step of ``round``."""
        memory = {**self.memory_bytes, **step.memory_bytes}
        told = self._replace(memory_bytes=memory, standing=self.standing.after(step, round))
        return told._watched(step, round) if step.bad or self.standing.missed else told

    def slowest_s(self, route: str) -> float | None:
        """What the slowest of the devices that are here took for a phase; None where none has done it yet."""
        pace_s = self.standing.pace_s.get(route, {})
        return max((s for device, s in pace_s.items() if device in self.nodes), default=None)

    def lighter(self, jobs: Mapping[int, Job]) -> dict[int, Job]:
        """Jobs of training, with fewer examples for devices that were too slow."""
        return {device: job._replace(share=0.5 ** self.standing.slow.get(device, 0)) for device, job in jobs.items()}

    def _watched(self, step: Step, round: int) -> Fleet:
        """The fleet with faults counted, and those set aside that keep failing, as long as enough are left."""
        had, phase = self.standing, step.row["phase"]
        aside = dict(had.aside)
        missed = {key: times for key, times in had.missed.items() if key[1] != phase or key[0] not in step.good}
        for device in sorted(step.bad):
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

    def only(self, devices: Sequence[int]) -> Fleet:
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

    def joined(self, answers: Sequence[tuple[int, int, Payload]], faults: Mapping[int, str]) -> Fleet:
        """The fleet with (node, device, profile) of nodes that nobody knew, and why others are still nobody's.

        A device that is already there keeps its node unless that one has failed just now: a node cannot take over
        another's place, but one that was started again may come before its old connection is given up.
        """
        nodes, strangers = dict(self.nodes), {**self.strangers, **faults}
        memory, holds, missed = dict(self.memory_bytes), dict(self.holds), self.standing.missed
        for node, device, profile in answers:
            strangers.pop(node, None)
            failing = any(times for (k, _), times in missed.items() if k == device)
            if why := self._turned_away(device, profile, taken=device in nodes and not failing):
                strangers[node] = why
            else:
                nodes[device] = node
                memory[device] = int(profile.values[MEMORY])
                holds[device] = {part: int(profile.values[part]) for part in PARTS}
        new = {device for device in nodes if nodes[device] != self.nodes.get(device)}
        trainers = {*self.trainers} - new | {device for device in new if holds[device]["train"]}
        selectors = {*self.selectors} - new | {device for device in new if holds[device]["development"]}
        return self._replace(
            nodes={device: nodes[device] for device in sorted(nodes)},
            trainers=tuple(sorted(trainers)),
            selectors=tuple(sorted(selectors)),
            memory_bytes=memory,
            holds=holds,
            strangers=strangers,
            standing=self.standing.without(new),
        )

    def _turned_away(self, device: int, profile: Payload, *, taken: bool) -> str:
        """Why a node that says that it is this device is not; empty where it is."""
        given = self.expected.gives.get(device, {})
        over = [part for part in PARTS if int(profile.values[part]) > given.get(part, int(profile.values[part]))]
        if not device < self.expected.devices:
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
        count = range(self.expected.devices)
        absent = {str(k): "not connected" for k in count if k not in self.nodes and str(k) not in aside}
        strangers = {str(node): why for node, why in self.strangers.items()}
        found = {"aside": aside, "absent": absent, "strangers": strangers}
        return {key: said for key, said in found.items() if said}
