"""Asking devices: one phase sent over a Flower Grid, replies checked one by one, bytes and faults counted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedprune import experiment as _experiment
from fedprune.aggregation import merge_counts
from fedprune.experiment import Experiment
from fedprune.federated.checks import SUMS, Asked, asked, checked, one_line
from fedprune.federated.fleet import ASIDE, Fleet, Step
from fedprune.federated.jobs import Job
from fedprune.federated.payload import MEMORY, REFUSED, Payload, size, to_records
from fedprune.federated.phases import Phase, Reply, evaluate
from fedprune.federated.phases.profile import profile
from fedprune.federated.state import State

__all__ = ["Fleet", "Link", "RunStopped", "Step", "round_seconds"]


class RunStopped(RuntimeError):
    """Too few devices answered well. What was complete before is saved, and a run can go on from it."""


class _Answers(NamedTuple):
    """What came back from a round of messages."""

    good: list[tuple[int, Reply]]
    """By node; the device is what the reply says, −1 where it says nothing."""
    faults: dict[int, str]
    """Node -> why its reply is not among the good ones."""
    bytes_down: int
    bytes_up: int


class Link(NamedTuple):
    """A grid, and the experiment that every message carries: devices keep nothing between messages."""

    grid: Grid
    experiment: Experiment
    patience_s: float = 30.0
    """How long to wait for devices that have not connected yet."""
    pause_s: float = 1.0
    """How long to wait before devices that answered badly are asked again."""

    def meet(self, devices: int, state: State) -> Fleet:
        """Wait for the experiment's ``devices`` devices and ask every node who it is.

        RunStopped where less than the experiment's least part of them is there when the patience ends.
        """
        least = self.experiment.least_replies
        return self._gathered(Fleet({}, (), devices=devices, least=least), state, 0, devices)

    def again(self, fleet: Fleet, state: State, round: int) -> Fleet:
        """The fleet at the start of a round: without nodes that are gone, with those that came or came back.

        RunStopped where less than the experiment's least part of the devices is there when the patience ends.
        """
        return self._gathered(fleet, state, round, fleet.least * fleet.devices)

    def _gathered(self, fleet: Fleet, state: State, round: int, enough: float) -> Fleet:
        until = time.monotonic() + self.patience_s
        while len(nodes := sorted(self.grid.get_node_ids())) < enough and time.monotonic() < until:
            time.sleep(0.1)
        known = {node: why for node, why in fleet.strangers.items() if node in nodes}
        fleet = fleet.present(nodes)._replace(strangers=known)
        # one that is nobody's may have been mended, but is not worth a message in every round
        due = [node for node in nodes if node not in fleet.nodes.values() and not (node in known and round % ASIDE)]
        if due:
            said = self._exchange(profile(), state, dict.fromkeys(due, Job()), round, {}, fleet)
            answers = sorted(said.good, key=lambda answer: answer[1].device)
            fleet = fleet.joined([(node, reply.device, reply.payload) for node, reply in answers], said.faults)
        missing = [device for device in range(fleet.devices) if device not in fleet.nodes]
        if len(fleet.nodes) < fleet.least * fleet.devices:
            why = "".join(f"; {reason}" for reason in list(fleet.strangers.values())[:1])
            raise RunStopped(
                f"{self.experiment.name} has {fleet.devices} devices, but {len(fleet.nodes)} of {len(nodes)} nodes "
                f"answered well (device {missing[0]} is missing){why}"
            )
        return fleet

    def ask(
        self, phase: Phase, state: State, fleet: Fleet, jobs: Mapping[int, Job], round: int, least: float | None = None
    ) -> Step:
        """Run one phase on these devices, each with its job. RunStopped where too few answer well.

        ``least`` is the part of them that must, by default the experiment's; without any the state stays as it is.
        Where too few do, those that did not are asked again, as often as the experiment's ``retries`` say.

        A device that refuses, since the job would not fit its memory, has answered, but is not part of the result.
        """
        started = time.perf_counter()
        needed = (self.experiment.least_replies if least is None else least) * len(jobs)
        everyone: list[Reply] = []
        named: dict[int, str] = {}
        up = down = retried = 0
        while True:
            index_of = {fleet.nodes[index]: index for index in jobs if not retried or index in named}
            nodes = {node: jobs[index] for node, index in index_of.items()}
            answers = self._exchange(phase, state, nodes, round, index_of, fleet)
            everyone += [reply._replace(device=index_of[node]) for node, reply in answers.good]
            named = {index_of[node]: reason for node, reason in answers.faults.items()}
            up, down = up + answers.bytes_up, down + answers.bytes_down
            if len(everyone) >= needed or retried == self.experiment.retries:
                break
            retried += 1
            time.sleep(self.pause_s)
        everyone.sort(key=lambda reply: reply.device)
        if len(everyone) < needed:
            reasons = "; ".join(f"device {index}: {reason}" for index, reason in sorted(named.items())[:3])
            raise RunStopped(
                f"round {round}, {phase.route}: {len(everyone)} of {len(jobs)} devices answered well. {reasons}"
            )
        replies = [reply for reply in everyone if REFUSED not in reply.payload.values]
        refused = [reply for reply in everyone if REFUSED in reply.payload.values]
        if replies:
            state = phase.reduce(state, replies)
        said = {str(r.device): {key: int(r.payload.values[key]) for key in (REFUSED, MEMORY)} for r in refused}
        row = {
            "round": round,
            "phase": phase.route.rpartition(".")[2],
            **_means([reply.payload for reply in replies]),
            "density": state.density(),
            "bytes_up": up,
            "bytes_down": down,
            "seconds": round_seconds(time.perf_counter() - started),
            "devices": len(replies),
            "faults": {str(index): reason for index, reason in named.items()},
            **({"refused": said} if said else {}),
            **({"retried": retried} if retried else {}),
            **fleet.notes(round),
            **(_worst(replies) if phase.route == evaluate.ROUTE else {}),
        }
        memory = {r.device: int(r.payload.values[MEMORY]) for r in everyone if MEMORY in r.payload.values}
        needs = {reply.device: reply.job.needs_bytes for reply in refused}
        return Step(
            row,
            state,
            memory_bytes=memory,
            refused=needs,
            good=frozenset(reply.device for reply in everyone),
            bad=frozenset(named),
        )

    def _exchange(
        self,
        phase: Phase,
        state: State,
        jobs: Mapping[int, Job],
        round: int,
        index_of: Mapping[int, int],
        fleet: Fleet,
    ) -> _Answers:
        """Send each node its job and check what comes back; ``index_of`` are the devices of nodes that were met."""
        requests: dict[Job, Asked] = {}
        contents: dict[Job, RecordDict] = {}  # one for all with a job: encoding and holding it for each costs a model
        for job in dict.fromkeys(jobs.values()):
            request = phase.request(state, job)
            request = request._replace(values={**request.values, "experiment": _experiment.to_json(self.experiment)})
            contents[job] = to_records(request)
            requests[job] = asked(phase, state, job, round, request, contents[job])
        limit = self.experiment.deadline_s or None
        messages = [
            Message(contents[job], dst_node_id=node, message_type=phase.route, group_id=str(round), ttl=limit)
            for node, job in jobs.items()
        ]
        answers = _Answers([], {}, sum(size(contents[job]) for job in jobs.values()), 0)
        answers.faults.update(dict.fromkeys(jobs, f"no reply within {limit:g} s" if limit else "no reply"))
        up = 0
        for message in self.grid.send_and_receive(messages, timeout=limit):
            node = message.metadata.src_node_id
            if node not in answers.faults:
                continue  # a second reply; or a link's own word of a node that it could not reach, which says no more
            if message.has_error():
                answers.faults[node] = one_line(message.error.reason)
                continue
            up += size(message.content)
            device = index_of.get(node)
            try:
                says, payload = checked(
                    message, requests[jobs[node]], device, fleet.holds.get(device) if device is not None else None
                )
            except ValueError as error:
                answers.faults[node] = one_line(str(error))
            except Exception as error:  # a reply that no check foresaw is that device's fault, not the end of the run
                answers.faults[node] = one_line(f"a damaged reply: {type(error).__name__}: {error}")
            else:
                answers.good.append((node, Reply(says, payload, jobs[node])))
                del answers.faults[node]
        return answers._replace(bytes_up=up)


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond: a log needs no more."""
    return round(seconds, 3)


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
