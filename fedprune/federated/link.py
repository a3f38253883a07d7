"""Asking devices: one phase sent over a Flower Grid, replies checked one by one, bytes and faults counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from fedprune import experiment as _experiment
from fedprune.aggregation import merge_counts
from fedprune.experiment import Experiment
from fedprune.federated.payload import Payload, from_records, number, size, to_records
from fedprune.federated.phases import Phase, Reply
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


class Fleet(NamedTuple):
    """The devices of a run."""

    nodes: Mapping[int, int]
    """Device -> Flower's node."""
    trainers: tuple[int, ...]
    """Devices that hold training examples, in order."""


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
        replies, faults, _, _ = self._exchange(profile(), state, nodes, 0)
        found = {reply.device: (node, reply.payload.values) for node, reply in replies}
        if missing := sorted(set(range(devices)) - set(found)):
            why = f"; {next(iter(faults.values()))}" if faults else ""
            raise RunStopped(
                f"{self.experiment.name} has {devices} devices, but {len(found)} of {len(nodes)} nodes answered "
                f"(device {missing[0]} is missing){why}"
            )
        holders = tuple(index for index in range(devices) if found[index][1].get("train", 0) > 0)
        return Fleet({index: found[index][0] for index in range(devices)}, holders)

    def ask(self, phase: Phase, state: State, fleet: Fleet, devices: Sequence[int], round: int) -> Step:
        """Run one phase on these devices. RunStopped where too few answer well."""
        started = time.perf_counter()
        index_of = {fleet.nodes[index]: index for index in devices}
        answered, faults, down, up = self._exchange(phase, state, list(index_of), round)
        replies = sorted((Reply(index_of[node], reply.payload) for node, reply in answered), key=lambda r: r.device)
        named = {str(index_of[node]): reason for node, reason in faults.items()}
        if len(replies) < self.experiment.least_replies * len(devices):
            reasons = "; ".join(f"device {index}: {reason}" for index, reason in sorted(named.items())[:3])
            raise RunStopped(
                f"round {round}, {phase.route}: {len(replies)} of {len(devices)} devices answered well. {reasons}"
            )
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
        }
        return Step(row, state)

    def _exchange(
        self, phase: Phase, state: State, nodes: Sequence[int], round: int
    ) -> tuple[list[tuple[int, Reply]], dict[int, str], int, int]:
        """(good replies by node, reason by node for the others, bytes down, bytes up)."""
        request = phase.request(state)
        request = request._replace(values={**request.values, "experiment": _experiment.to_json(self.experiment)})
        content = to_records(request)  # one for all: encoding and holding it for each costs time and a model apiece
        messages = [
            Message(content=content, dst_node_id=node, message_type=phase.route, group_id=str(round)) for node in nodes
        ]
        down = size(content) * len(messages)
        good: list[tuple[int, Reply]] = []
        faults = dict.fromkeys(nodes, "no reply")
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
                payload = from_records(message.content, request.masks)
                phase.check(state, payload)
                for key in _SUMS:
                    if payload.values.get(key) is not None:  # a loss that is not finite arrives as null
                        number(payload, key)
                device = int(number(payload, "device")) if "device" in payload.values else -1
            except ValueError as error:
                faults[node] = str(error)
            else:
                good.append((node, Reply(device, payload)))
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


def _short(reason: str | None) -> str:
    """The last line of a device's error, which names it."""
    lines = [line for line in (reason or "").strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "an error without a reason"
