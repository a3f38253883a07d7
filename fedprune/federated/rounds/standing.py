"""The devices of a run as the server knows them: their nodes, what they hold, and which of them keep failing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import train
from fedprune.federated.rounds.phases.profile import PARTS
from fedprune.wire.payload import MEMORY, Payload

_DISTRUST = 2  # rounds for which a device gets less than it says: whatever took its memory may be gone by then
_HALVINGS = 3  # a slow device gets an eighth of its examples at the least
_EASY = 0.25  # of the time allowed: a slow device that takes less gets twice as many again
_PATIENCE = 3  # faults in a row in one phase, after which a device is set aside
ASIDE = 3
"""Rounds for which a device that keeps failing is not asked."""


class Step(NamedTuple):
    """One phase, done."""

    row: dict[str, Any]
    """A line of metrics: round, phase, accuracy, loss, density, bytes_up, bytes_down, seconds, devices, faults."""
    answer: Any
    """What the phase's replies came to; None where there was none."""
    memory_bytes: Mapping[int, int] = MappingProxyType({})
    """What devices said that their process may use, those that refused among them."""
    refused: Mapping[int, int] = MappingProxyType({})
    """What the job of those that refused would have needed, in bytes."""
    good: frozenset[int] = frozenset()
    """Devices that answered well."""
    bad: frozenset[int] = frozenset()
    """Devices that did not, or not at all."""
    late: frozenset[int] = frozenset()
    """Of these the devices that did not answer in time."""
    seconds: Mapping[int, float] = MappingProxyType({})
    """What devices say that they worked on it."""
    limit_s: float = 0.0
    """What they had; 0 is no limit."""
    route: str = ""
    """The phase's."""


class _Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``Fleet.standing`` writes, under the names of the fleet's fields."""

    missed: list[tuple[int, str, int]]
    aside: dict[int, int]
    slow: dict[int, int]
    failed: dict[int, tuple[int, int]]
    pace_s: dict[str, dict[int, float]]


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
    failed: Mapping[int, tuple[int, int]] = MappingProxyType({})
    """Device -> (needs of a job that failed although it seemed to fit, the last round in which that counts)."""
    holds: Mapping[int, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples, as it said when it was met."""
    devices: int = 0
    """How many there should be."""
    least: float = 0.0
    """The part of them without which no round is worth it."""
    missed: Mapping[tuple[int, str], int] = MappingProxyType({})
    """(device, phase) -> faults in a row."""
    aside: Mapping[int, int] = MappingProxyType({})
    """Device that kept failing -> the last round in which it is not asked."""
    strangers: Mapping[int, str] = MappingProxyType({})
    """Node that is nobody's -> why."""
    pace_s: Mapping[str, Mapping[int, float]] = MappingProxyType({})
    """Phase's route -> device -> what it took, the last time."""
    slow: Mapping[int, int] = MappingProxyType({})
    """Device that trained too slowly -> how often its share of its examples is halved."""
    gives: Mapping[int, Mapping[str, int]] = MappingProxyType({})
    """Device -> part of its data -> examples that the experiment gives it, where the server knows."""

    def usable(self, round: int) -> dict[int, int]:
        """What each device's process may use in a round, less where a job that seemed to fit has just failed."""
        found = dict(self.memory_bytes)
        for device, (needed, until) in self.failed.items():
            if round <= until and device in found:
                found[device] = min(found[device], needed - 1)
        return found

    def told(self, step: Step, round: int) -> Fleet:
        """The fleet with what devices said, or did not say, in a step of ``round``."""
        over = {k: n for k, n in step.refused.items() if step.memory_bytes[k] >= n}
        failed = {k: (n, round + _DISTRUST) for k, n in over.items()}
        memory = {**self.memory_bytes, **step.memory_bytes}
        told = self._replace(memory_bytes=memory, failed={**self.failed, **failed})._timed(step)
        return told._watched(step, round) if step.bad or self.missed else told

    def _timed(self, step: Step) -> Fleet:
        """The fleet with how long the phase takes, and those given less to train that were late."""
        pace_s = dict(self.pace_s)
        if step.seconds:
            pace_s[step.route] = {**pace_s.get(step.route, {}), **step.seconds}
        if step.route != train.ROUTE or not (step.late or self.slow):
            return self._replace(pace_s=pace_s)
        slow = {**self.slow, **{k: min(self.slow.get(k, 0) + 1, _HALVINGS) for k in step.late}}
        for device, seconds in step.seconds.items():
            if device in slow and seconds < _EASY * step.limit_s:
                slow[device] -= 1
        return self._replace(pace_s=pace_s, slow={device: times for device, times in slow.items() if times})

    def slowest_s(self, route: str) -> float | None:
        """What the slowest of the devices that are here took for a phase; None where none has done it yet."""
        return max((s for device, s in self.pace_s.get(route, {}).items() if device in self.nodes), default=None)

    def lighter(self, jobs: Mapping[int, Job]) -> dict[int, Job]:
        """Jobs of training, with fewer examples for devices that were too slow."""
        return {device: job._replace(share=0.5 ** self.slow.get(device, 0)) for device, job in jobs.items()}

    def _watched(self, step: Step, round: int) -> Fleet:
        """The fleet with faults counted, and those set aside that keep failing, as long as enough are left."""
        phase, aside = step.row["phase"], dict(self.aside)
        missed = {key: times for key, times in self.missed.items() if key[1] != phase or key[0] not in step.good}
        for device in sorted(step.bad):
            missed[device, phase] = missed.get((device, phase), 0) + 1
            left = sum(aside.get(each, 0) <= round for each in self.nodes) - 1
            if missed[device, phase] >= _PATIENCE and left >= max(1, self.least * self.devices):
                aside[device] = round + ASIDE
                missed[device, phase] = _PATIENCE - 1  # one more fault, and it is set aside again
        return self._replace(missed=missed, aside=aside)

    def active(self, round: int) -> Fleet:
        """The fleet of those that are asked in a round."""
        away = {device for device, until in self.aside.items() if round <= until}
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
        memory, holds = dict(self.memory_bytes), dict(self.holds)
        for node, device, profile in answers:
            strangers.pop(node, None)
            given = self.gives.get(device, {})
            over = [part for part in PARTS if int(profile.values[part]) > given.get(part, int(profile.values[part]))]
            if not device < self.devices:
                strangers[node] = f"says that it is device {device} of {self.devices}, which count from 0"
            elif device in nodes and not any(missed for (k, _), missed in self.missed.items() if k == device):
                strangers[node] = f"says that it is device {device}, which another node is"
            elif over:  # it would buy weight in every average
                said = f"says that it has {profile.values[over[0]]} {over[0]} examples"
                strangers[node] = f"{said}; the experiment gives device {device} {given[over[0]]}"
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
            aside={device: until for device, until in self.aside.items() if device not in new},
            missed={key: times for key, times in self.missed.items() if key[0] not in new},
            strangers=strangers,
        )

    def standing(self) -> str:
        """What devices have earned so far, which decides what they are asked next: text for a checkpoint."""
        missed = [[device, phase, times] for (device, phase), times in sorted(self.missed.items())]
        kept = {key: getattr(self, key) for key in ("aside", "slow", "failed", "pace_s")}
        return json.dumps({"missed": missed, **{key: dict(value) for key, value in kept.items()}})

    def as_before(self, standing: str) -> Fleet:
        """The fleet with what ``standing`` said of its devices; ``""`` says nothing. ValueError for any other text."""
        if not standing:
            return self
        told = msgspec.json.decode(standing, type=_Standing)
        missed = {(device, phase): times for device, phase, times in told.missed}
        return self._replace(missed=missed, aside=told.aside, slow=told.slow, failed=told.failed, pace_s=told.pace_s)

    def notes(self, round: int) -> dict[str, dict[str, Any]]:
        """What a line of metrics says of devices that are not asked; nothing where all are."""
        aside = {str(device): f"until round {until}" for device, until in self.aside.items() if round <= until}
        absent = {str(k): "not connected" for k in range(self.devices) if k not in self.nodes and str(k) not in aside}
        strangers = {str(node): why for node, why in self.strangers.items()}
        found = {"aside": aside, "absent": absent, "strangers": strangers}
        return {key: said for key, said in found.items() if said}
