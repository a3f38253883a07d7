"""What rounds ask of whoever holds data, and how a run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fedprune.experiment import Experiment
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase
from fedprune.federated.rounds.standing import Step

SUMS = ("loss", "correct", "seen")
"""Values that any phase may report, summed over examples."""


class Request(NamedTuple):
    """A phase to be run on devices."""

    phase: Phase[Any]
    state: State
    jobs: Mapping[int, Job]
    """Device -> what it is to do."""
    round: int
    least: float | None = None
    """The part of the devices that must answer well; None is what the experiment says."""


class Asking(Protocol):
    """Whoever can ask the devices of an experiment: over a link, or where they are in this process."""

    @property
    def experiment(self) -> Experiment:
        """What devices are asked for."""

    @property
    def together(self) -> bool:
        """Whether a round's tests travel with the next round's training, as where each message costs seconds."""

    def meet(self, devices: int, state: State) -> Fleet:
        """Wait for so many devices and ask who they are. RunStopped where too few are there."""

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """Who is there now."""

    def ask(
        self,
        phase: Phase[Any],
        state: State,
        fleet: Fleet,
        jobs: Mapping[int, Job],
        round: int,
        least: float | None = None,
    ) -> Step:
        """Run one phase on these devices, each with its job. RunStopped where too few answer one well."""

    def ask_all(self, asks: Sequence[Request], fleet: Fleet) -> list[Step]:
        """Run phases on devices, with one message for each device."""


class RunStopped(RuntimeError):
    """Too few devices answered well. What was complete before is saved, and a run can go on from it."""


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond: a log needs no more."""
    return round(seconds, 3)
