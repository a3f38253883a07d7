"""What devices have earned in a run: who keeps failing, who is slow, whose memory was not what it said.

It decides what they are asked next, and is kept with the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

from fedprune.federated.rounds.naming import device_of, place, written
from fedprune.federated.rounds.phases import local_steps
from fedprune.types import DeviceId

_Value = TypeVar("_Value")
_DISTRUST = 2  # rounds for which a device gets less than it says: whatever took its memory may be gone by then
_HALVINGS = 3  # a slow device gets an eighth of its examples at the least
_EASY = 0.25  # of the time allowed: a slow device that takes less gets twice as many again
PATIENCE = 3
"""Faults in a row in one phase, after which a device is set aside."""
ASIDE = 3
"""Rounds for which a device that keeps failing is not asked."""


class Step(NamedTuple):
    """One phase, done."""

    row: dict[str, Any]
    """A line of metrics: round, phase, accuracy, loss, density, bytes_up, bytes_down, seconds, devices, faults."""
    answer: Any
    """What the phase's replies came to; None where there was none."""
    memory_bytes: Mapping[DeviceId, int] = MappingProxyType({})
    """What devices said that their process may use, those that refused among them."""
    refused: Mapping[DeviceId, int] = MappingProxyType({})
    """What the job of those that refused would have needed, in bytes."""
    good: frozenset[DeviceId] = frozenset()
    """Devices that answered well."""
    bad: frozenset[DeviceId] = frozenset()
    """Devices that did not, or not at all."""
    late: frozenset[DeviceId] = frozenset()
    """Of these the devices that did not answer in time."""
    seconds: Mapping[DeviceId, float] = MappingProxyType({})
    """What devices say that they worked on it."""
    limit_s: float = 0.0
    """What they had; 0 is no limit."""
    route: str = ""
    """The phase's."""


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A standing as it is written."""

    missed: list[tuple[int | str, str, int]]
    aside: dict[str, int]
    slow: dict[str, int]
    failed: dict[str, tuple[int, int]]
    pace_s: dict[str, dict[str, float]]


class Standing(NamedTuple):
    """What devices have earned so far; nothing, at the start."""

    missed: Mapping[tuple[DeviceId, str], int] = MappingProxyType({})
    """(device, phase) -> faults in a row."""
    aside: Mapping[DeviceId, int] = MappingProxyType({})
    """Device that kept failing -> the last round in which it is not asked."""
    slow: Mapping[DeviceId, int] = MappingProxyType({})
    """Device that trained too slowly -> how often its share of its examples is halved."""
    failed: Mapping[DeviceId, tuple[int, int]] = MappingProxyType({})
    """Device -> (needs of a job that failed although it seemed to fit, the last round in which that counts)."""
    pace_s: Mapping[str, Mapping[DeviceId, float]] = MappingProxyType({})
    """Phase's route -> device -> what it took, the last time."""

    def after(self, step: Step, round: int) -> Standing:
        """The standing after a step of ``round``, but for those that it sets aside."""
        over = {k: n for k, n in step.refused.items() if step.memory_bytes[k] >= n}
        failed = {**self.failed, **{k: (n, round + _DISTRUST) for k, n in over.items()}}
        pace_s = dict(self.pace_s)
        if step.seconds:
            pace_s[step.route] = {**pace_s.get(step.route, {}), **step.seconds}
        slow = self.slow if step.route != local_steps.ROUTE or not (step.late or self.slow) else self._slower(step)
        return self._replace(failed=failed, pace_s=pace_s, slow=slow)

    def _slower(self, step: Step) -> dict[DeviceId, int]:
        slow = {**self.slow, **{k: min(self.slow.get(k, 0) + 1, _HALVINGS) for k in step.late}}
        for device, seconds in step.seconds.items():
            if device in slow and seconds < _EASY * step.limit_s:
                slow[device] -= 1
        return {device: times for device, times in slow.items() if times}

    def usable(self, memory_bytes: Mapping[DeviceId, int], round: int) -> dict[DeviceId, int]:
        """What each device's process may use in a round, less where a job that seemed to fit has just failed."""
        found = dict(memory_bytes)
        for device, (needed, until) in self.failed.items():
            if round <= until and device in found:
                found[device] = min(found[device], needed - 1)
        return found

    def away(self, round: int) -> set[DeviceId]:
        """Devices that are not asked in a round."""
        return {device for device, until in self.aside.items() if round <= until}

    def without(self, devices: set[DeviceId]) -> Standing:
        """The standing with nothing held against these, which are new."""
        return self._replace(
            aside={device: until for device, until in self.aside.items() if device not in devices},
            missed={key: times for key, times in self.missed.items() if key[0] not in devices},
        )

    def text(self) -> str:
        """For a checkpoint."""
        named = sorted(self.missed, key=lambda each: (place(each[0]), each[1]))
        missed = [[*each, self.missed[each]] for each in named]
        kept = {name: _texts(getattr(self, name)) for name in ("aside", "slow", "failed")}
        pace_s = {phase: _texts(seconds) for phase, seconds in self.pace_s.items()}
        return json.dumps({"missed": missed, **kept, "pace_s": pace_s})


def standing_of(text: str) -> Standing:
    """The standing of ``text()``; ``""`` is none yet. ValueError for any other text."""
    if not text:
        return Standing()
    told = msgspec.json.decode(text, type=_Text)
    missed = {(device, phase): times for device, phase, times in told.missed}
    pace_s = {phase: _devices(seconds) for phase, seconds in told.pace_s.items()}
    return Standing(missed, _devices(told.aside), _devices(told.slow), _devices(told.failed), pace_s)


def _texts(table: Mapping[DeviceId, _Value]) -> dict[str, _Value]:
    return {written(device): value for device, value in table.items()}


def _devices(table: Mapping[str, _Value]) -> dict[DeviceId, _Value]:
    return {device_of(text): value for text, value in table.items()}
