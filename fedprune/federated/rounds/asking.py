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
from fedprune.tasks import Task, entry, value_key
from fedprune.types import DeviceId
from fedprune.wire.payload import Payload


def sums_of(task: Task) -> tuple[str, ...]:
    """Values that any phase may report, summed over examples."""
    return ("loss", *task.names, "seen")


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
    task: Task,
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
        **_means(task, [reply.payload for reply in replies]),
        "density": (answer if isinstance(answer, State) else ask.state).density(),
        "bytes_up": bytes_up,
        "bytes_down": bytes_down,
        "seconds": seconds,
        "asked": ordered(ask.jobs),
        "devices": len(replies),
        "faults": {str(index): reason for index, reason in faults.items()},
        **more,
        **(_worst(task, replies) if ask.phase.route == evaluate.ROUTE else {}),
    }


def _means(task: Task, payloads: Sequence[Payload]) -> dict[str, Any]:
    """The task's metric and its loss over all examples seen, where the phase reports them."""
    sums = merge_counts([{key: payload.values.get(key) or 0 for key in sums_of(task)} for payload in payloads])
    if not sums.get("seen"):
        return {value_key(task.metric): None, "loss": None}
    values = [_value(task, payload) for payload in payloads if payload.values.get("seen")]
    value = None if None in values else task.value(sums)
    return {**entry(task.metric, value=value), "loss": sums["loss"] / sums["seen"]}


def _value(task: Task, payload: Payload) -> float | None:
    """The metric by one device's examples; None where a sum is not finite, which arrives as null."""
    if any(payload.values.get(name) is None for name in task.names):
        return None
    return task.value({name: payload.values[name] for name in (*task.names, "seen")})


def _worst(task: Task, replies: Sequence[Reply]) -> dict[str, Any]:
    """The device that does worst, where devices test a model, and how they do on average, each alike."""
    tested = [reply for reply in replies if reply.payload.values.get("seen")]
    told = {reply.device: _value(task, reply.payload) for reply in tested}
    known = {device: value for device, value in told.items() if value is not None}
    if len(known) < 2:
        return {}
    device = (min if task.metric.higher else max)(known, key=lambda each: known[each])
    mean = sum(known[each] for each in ordered(known)) / len(known)
    return {"worst": {"device": device, value_key(task.metric): known[device]}, "mean_device": mean}


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond: a log needs no more."""
    return round(seconds, 3)
