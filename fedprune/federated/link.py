"""Asking devices: one phase sent over a Flower Grid, replies checked one by one, bytes and faults counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedprune import experiment as _experiment
from fedprune.aggregation import merge_counts
from fedprune.experiment import Experiment
from fedprune.federated.jobs import Job
from fedprune.federated.payload import MEMORY, REFUSED, Payload, from_records, number, size, to_records
from fedprune.federated.phases import Phase, Reply, evaluate
from fedprune.federated.phases.profile import profile
from fedprune.federated.state import State

_SUMS = ("loss", "correct", "seen")
"""Values that any phase may report, summed over examples."""


class RunStopped(RuntimeError):
    """Too few devices answered well. What was complete before is saved, and a run can go on from it."""


class Step(NamedTuple):
    """One phase, done."""

    row: dict[str, Any]
    """A line of metrics: round, phase, accuracy, loss, density, bytes_up, bytes_down, seconds, devices, faults."""
    state: State
    complete: bool = False
    """Whether its round is complete, so that a run may stop here and go on later."""
    memory_bytes: Mapping[int, int] = MappingProxyType({})
    """What devices said that their process may use, those that refused among them."""
    refused: Mapping[int, int] = MappingProxyType({})
    """What the job of those that refused would have needed, in bytes."""


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

    def usable(self, round: int) -> dict[int, int]:
        """What each device's process may use in a round, less where a job that seemed to fit has just failed."""
        found = dict(self.memory_bytes)
        for device, (needed, until) in self.failed.items():
            if round <= until:
                found[device] = min(found[device], needed - 1)
        return found

    def told(self, step: Step, round: int) -> Fleet:
        """The fleet with what devices said in a step of ``round``."""
        over = {k: n for k, n in step.refused.items() if step.memory_bytes[k] >= n}
        failed = {k: (n, round + _DISTRUST) for k, n in over.items()}
        memory = {**self.memory_bytes, **step.memory_bytes}
        return self._replace(memory_bytes=memory, failed={**self.failed, **failed})


_DISTRUST = 2  # rounds for which a device gets less than it says: whatever took its memory may be gone by then


class Link(NamedTuple):
    """A grid, and the experiment that every message carries: devices keep nothing between messages."""

    grid: Grid
    experiment: Experiment
    patience_s: float = 30.0
    """How long to wait for devices that have not connected yet."""

    def meet(self, devices: int, state: State) -> Fleet:
        """Ask every node who it is. RunStopped where the nodes are not the experiment's ``devices`` devices."""
        until = time.monotonic() + self.patience_s
        while len(nodes := sorted(self.grid.get_node_ids())) < devices and time.monotonic() < until:
            time.sleep(0.1)
        replies, faults, _, _ = self._exchange(profile(), state, dict.fromkeys(nodes, Job()), 0)
        found = {reply.device: (node, reply.payload.values) for node, reply in replies}
        if missing := sorted(set(range(devices)) - set(found)):
            why = f"; {next(iter(faults.values()))}" if faults else ""
            raise RunStopped(
                f"{self.experiment.name} has {devices} devices, but {len(found)} of {len(nodes)} nodes answered "
                f"(device {missing[0]} is missing){why}"
            )
        holders = tuple(index for index in range(devices) if found[index][1].get("train", 0) > 0)
        selectors = tuple(index for index in range(devices) if found[index][1].get("development", 0) > 0)
        memory = {index: int(values[MEMORY]) for index, (_, values) in found.items()}
        return Fleet({index: found[index][0] for index in range(devices)}, holders, selectors, memory)

    def ask(
        self, phase: Phase, state: State, fleet: Fleet, jobs: Mapping[int, Job], round: int, least: float | None = None
    ) -> Step:
        """Run one phase on these devices, each with its job. RunStopped where too few answer well.

        ``least`` is the part of them that must, by default the experiment's; without any the state stays as it is.

        A device that refuses, since the job would not fit its memory, has answered, but is not part of the result.
        """
        started = time.perf_counter()
        index_of = {fleet.nodes[index]: index for index in jobs}
        asked = {node: jobs[index] for node, index in index_of.items()}
        answered, faults, down, up = self._exchange(phase, state, asked, round)
        everyone = sorted((reply._replace(device=index_of[node]) for node, reply in answered), key=lambda r: r.device)
        replies = [reply for reply in everyone if REFUSED not in reply.payload.values]
        refused = {
            str(r.device): {key: int(r.payload.values[key]) for key in (REFUSED, MEMORY)}
            for r in everyone
            if REFUSED in r.payload.values
        }
        named = {str(index_of[node]): reason for node, reason in faults.items()}
        if len(everyone) < (self.experiment.least_replies if least is None else least) * len(jobs):
            reasons = "; ".join(f"device {index}: {reason}" for index, reason in sorted(named.items())[:3])
            raise RunStopped(
                f"round {round}, {phase.route}: {len(everyone)} of {len(jobs)} devices answered well. {reasons}"
            )
        if replies:
            state = phase.reduce(state, replies)
        row = {
            "round": round,
            "phase": phase.route.rpartition(".")[2],
            **_means([reply.payload for reply in replies]),
            "density": state.density(),
            "bytes_up": up,
            "bytes_down": down,
            "seconds": round_seconds(time.perf_counter() - started),
            "devices": len(replies),
            "faults": named,
            **({"refused": refused} if refused else {}),
            **(_worst(replies) if phase.route == evaluate.ROUTE else {}),
        }
        memory = {r.device: int(r.payload.values[MEMORY]) for r in everyone if MEMORY in r.payload.values}
        needed = {r.device: r.job.needs_bytes for r in everyone if REFUSED in r.payload.values}
        return Step(row, state, memory_bytes=memory, refused=needed)

    def _exchange(
        self, phase: Phase, state: State, jobs: Mapping[int, Job], round: int
    ) -> tuple[list[tuple[int, Reply]], dict[int, str], int, int]:
        """(good replies by node, reason by node for the others, bytes down, bytes up)."""
        requests: dict[Job, Payload] = {}
        contents: dict[Job, RecordDict] = {}  # one for all with a job: encoding and holding it for each costs a model
        for job in dict.fromkeys(jobs.values()):
            request = phase.request(state, job)
            values = {**request.values, "experiment": _experiment.to_json(self.experiment)}
            requests[job] = request._replace(values=values)
            contents[job] = to_records(requests[job])
        messages = [
            Message(content=contents[job], dst_node_id=node, message_type=phase.route, group_id=str(round))
            for node, job in jobs.items()
        ]
        down = sum(size(contents[job]) for job in jobs.values())
        good: list[tuple[int, Reply]] = []
        faults = dict.fromkeys(jobs, "no reply")
        up = 0
        for message in self.grid.send_and_receive(messages):
            node = message.metadata.src_node_id
            if node not in faults:
                continue  # a link's own word of a node that it could not reach: that node stays without a reply
            if message.has_error():
                faults[node] = _short(message.error.reason)
                continue
            up += size(message.content)
            try:
                payload = from_records(message.content, requests[jobs[node]].masks)
                if REFUSED in payload.values and jobs[node].needs_bytes:
                    number(payload, REFUSED, least=1)
                    number(payload, MEMORY)
                elif REFUSED in payload.values:
                    raise ValueError("refused what needs no memory to speak of")
                else:
                    phase.check(state, jobs[node], payload)
                if MEMORY in payload.values:
                    number(payload, MEMORY, least=0)
                for key in _SUMS:
                    if payload.values.get(key) is not None:  # a loss that is not finite arrives as null
                        number(payload, key)
                device = int(number(payload, "device")) if "device" in payload.values else -1
            except ValueError as error:
                faults[node] = str(error)
            else:
                good.append((node, Reply(device, payload, jobs[node])))
                del faults[node]
        return good, faults, down, up


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond: a log needs no more."""
    return round(seconds, 3)


def _means(payloads: Sequence[Payload]) -> dict[str, float | None]:
    """Accuracy and loss over all examples seen, where the phase reports them."""
    sums = merge_counts([{key: payload.values.get(key) or 0 for key in _SUMS} for payload in payloads])
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


def _short(reason: str | None) -> str:
    """The last line of a device's error, which names it."""
    lines = [line for line in (reason or "").strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "an error without a reason"
