"""What rounds ask of whoever holds data, and how a run stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fedprune.aggregation import merge_counts
from fedprune.experiment import Experiment
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import ordered
from fedprune.federated.rounds.phases import Phase, Reply, evaluate
from fedprune.federated.rounds.phases.learning_rates import learning_rate
from fedprune.federated.rounds.standing import Step
from fedprune.types import DeviceId
from fedprune.wire.payload import Payload

SUMS = ("loss", "correct", "seen")
"""Values that any phase may report, summed over examples."""


class Request(NamedTuple):
    """A phase to be run on devices."""

    phase: Phase[Any]
    state: State
    jobs: Mapping[DeviceId, Job]
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
        jobs: Mapping[DeviceId, Job],
        round: int,
        least: float | None = None,
    ) -> Step:
        """Run one phase on these devices, each with its job. RunStopped where too few answer one well."""

    def ask_all(self, asks: Sequence[Request], fleet: Fleet) -> list[Step]:
        """Run phases on devices, with one message for each device."""


class RunStopped(RuntimeError):
    """Too few devices answered well. What was complete before is saved, and a run can go on from it."""


class Diverged(RunStopped):
    """Training has diverged on too many devices, or on the server: with the same settings it would again."""

    def __init__(self, why: str, experiment: Experiment, round: int) -> None:
        """``why``: round, devices and values; round 0 is pretraining."""
        super().__init__(f"{why}; {remedies(experiment, round)}")


def remedies(experiment: Experiment, round: int) -> str:
    """What helps against divergence in a round, by key; round 0 is pretraining."""
    training = experiment.training
    table, rate = "training", learning_rate(experiment, round)
    if not round:
        table, rate = "pretraining", experiment.pretraining.learning_rate
    found = [f"lower {table}.learning_rate ({rate:.3g} here)"]
    if round and training.server_optimiser != "none":
        found.append("lower training.server_learning_rate")
    clip = training.clip_gradients
    found.append(f"lower training.clip_gradients ({clip:.3g})" if clip else "set training.clip_gradients, such as to 1")
    return f"{', '.join(found)}, or scale the inputs by the data set's mean and std"


def line(
    ask: Request,
    replies: Sequence[Reply],
    answer: Any,
    seconds: float,
    *,
    bytes_up: int = 0,
    bytes_down: int = 0,
    faults: Mapping[DeviceId, str] = MappingProxyType({}),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The line of metrics of a phase, from the devices' good replies and what they came to."""
    return {
        "round": ask.round,
        "phase": ask.phase.route.rpartition(".")[2],
        **_means([reply.payload for reply in replies]),
        "density": (answer if isinstance(answer, State) else ask.state).density(),
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "seconds": seconds,
        "asked": ordered(ask.jobs),
        "devices": len(replies),
        "faults": {str(index): reason for index, reason in faults.items()},
        **more,
        **(_worst(replies) if ask.phase.route == evaluate.ROUTE else {}),
    }


def _means(payloads: Sequence[Payload]) -> dict[str, float | None]:
    """Accuracy and loss over all examples seen, where the phase reports them."""
    sums = merge_counts([{key: payload.values.get(key) or 0 for key in SUMS} for payload in payloads])
    if not sums.get("seen"):
        return {"accuracy": None, "loss": None}
    return {"accuracy": sums["correct"] / sums["seen"], "loss": sums["loss"] / sums["seen"]}


def _worst(replies: Sequence[Reply]) -> dict[str, Any]:
    """The device that does worst, where devices test a model."""
    tested = [r for r in replies if r.payload.values.get("seen") and "correct" in r.payload.values]
    if len(tested) < 2:
        return {}
    shares = {r.device: r.payload.values["correct"] / r.payload.values["seen"] for r in tested}
    device = min(shares, key=lambda each: shares[each])
    return {"worst": {"device": device, "accuracy": shares[device]}}


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond: a log needs no more."""
    return round(seconds, 3)
