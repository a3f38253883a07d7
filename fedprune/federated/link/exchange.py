"""One exchange of messages with devices: what each is asked, one message a device, and replies checked one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedprune import experiment as _experiment
from fedprune.experiment import Experiment
from fedprune.federated.link import bundle
from fedprune.federated.link.checks import Asked, Diverges, Grown, addressed, asked, checked
from fedprune.federated.link.records import size, to_records
from fedprune.federated.rounds.asking import Request
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import Reply
from fedprune.types import DeviceId
from fedprune.wire.payload import Payload, one_line

_NEARLY = 0.97


class Answers(NamedTuple):
    """What came back to one ask."""

    good: list[tuple[int, Reply]]
    """By node; the device is what the reply says, −1 where it says nothing."""
    faults: dict[int, str]
    """Node -> why its reply is not among the good ones."""
    late: set[int]
    """Nodes that did not answer in time."""
    diverged: set[int]
    """Nodes that say that what they trained or tested has diverged, which is a fault as well."""
    bytes_down: int
    bytes_up: int


def exchange(
    grid: Grid,
    experiment: Experiment,
    asks: Sequence[tuple[Request, Mapping[int, Job]]],
    index_of: Mapping[int, DeviceId],
    fleet: Fleet,
    limit_s: float | None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> list[Answers]:
    """Send each node its job of every ask, all in one message, and check what comes back within the limit.

    ``asks`` come with the jobs by node; ``index_of`` are the devices of nodes that were met; ``more`` are values that
    each request carries.
    """
    made = [_requests(experiment, ask, jobs, more) for ask, jobs in asks]
    why = f"no reply within {limit_s:g} s" if limit_s else "no reply"
    answers = []
    for (_, jobs), requests in zip(asks, made, strict=True):
        down = sum(size(requests[job][1]) for job in jobs.values())
        answers.append(Answers([], dict.fromkeys(jobs, why), set(jobs) if limit_s else set(), set(), down, 0))
    sent: dict[int, tuple[int, ...]] = {}
    contents: dict[tuple[tuple[int, Job], ...], RecordDict] = {}  # one for all with these jobs: each costs a model
    messages = []
    for node in dict.fromkeys(node for _, jobs in asks for node in jobs):
        mine = tuple((index, jobs[node]) for index, (_, jobs) in enumerate(asks) if node in jobs)
        sent[node] = tuple(index for index, _ in mine)
        parts = [
            bundle.Part(asks[index][0].phase.route, str(asks[index][0].round), made[index][job][1])
            for index, job in mine
        ]
        if mine not in contents:
            contents[mine] = parts[0].records if len(parts) == 1 else bundle.pack(parts)
        route = parts[0].route if len(parts) == 1 else bundle.ROUTE
        messages.append(
            Message(contents[mine], dst_node_id=node, message_type=route, group_id=parts[-1].round, ttl=limit_s)
        )
    asked_nodes, started = frozenset(sent), time.monotonic()
    for reply in grid.send_and_receive(messages, timeout=limit_s):
        node = reply.metadata.src_node_id
        if node not in asked_nodes and reply.has_error():  # the link's own word of a node that it could not reach
            if limit_s and time.monotonic() - started > _NEARLY * limit_s:
                continue  # or that the time is over
            node = next((m.metadata.dst_node_id for m in messages if _answers(reply, m)), node)
        if node not in sent:
            continue  # a second reply
        device = index_of.get(node)
        for index, found in _opened(reply, [(index, asks[index][0]) for index in sent.pop(node)]):
            job = asks[index][1][node]
            answers[index].late.discard(node)
            answers[index].faults[node] = found if isinstance(found, str) else ""
            if isinstance(found, str):
                continue
            answers[index] = answers[index]._replace(bytes_up=answers[index].bytes_up + size(found))
            try:
                most, own = fleet.most(device, asks[index][0].round), fleet.expected.named
                says, payload = checked(found, made[index][job][0], device, most, own=own)
            except Grown as error:
                answers[index].good.append((node, Reply(-1, Payload(), job, one_line(str(error)))))
                del answers[index].faults[node]
            except ValueError as error:
                answers[index].faults[node] = one_line(str(error))
                if isinstance(error, Diverges):
                    answers[index].diverged.add(node)
            except Exception as error:  # a reply that no check foresaw is that device's fault, not the end of the run
                answers[index].faults[node] = one_line(f"a damaged reply: {type(error).__name__}: {error}")
            else:
                answers[index].good.append((node, Reply(-1 if says is None else says, payload, job)))
                del answers[index].faults[node]
    return answers


def _requests(
    experiment: Experiment, ask: Request, jobs: Mapping[int, Job], more: Mapping[str, str]
) -> dict[Job, tuple[Asked, RecordDict]]:
    """For each job how to judge replies, and the request as it is sent."""
    found, text = {}, _experiment.to_json(_experiment.for_devices(experiment))
    for job in dict.fromkeys(jobs.values()):
        request = ask.phase.request(ask.state, job)
        request = request._replace(values={**request.values, "experiment": text, **more})
        records = to_records(request)
        found[job] = asked(ask.phase, ask.state, job, ask.round, request, records), records
    return found


def _answers(reply: Message, message: Message) -> bool:
    return bool(reply.metadata.reply_to_message_id) and (
        reply.metadata.reply_to_message_id == message.metadata.message_id
    )


def _opened(reply: Message, asks: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, RecordDict | str]]:
    """What a reply says to each of the asks, by its number: content, or why there is none."""
    if reply.has_error():
        yield from ((index, one_line(reply.error.reason)) for index, _ in asks)
        return
    wanted = [(ask.phase.route, str(ask.round)) for _, ask in asks]
    try:
        route = wanted[0][0] if len(asks) == 1 else bundle.ROUTE
        addressed(reply, route, asks[-1][1].round)
        parts = [bundle.Part(*wanted[0], reply.content)] if len(asks) == 1 else bundle.unpack(reply.content)
        if [(part.route, part.round) for part in parts] != wanted:
            raise ValueError("not a reply to each of what was asked")
    except Exception as error:
        yield from ((index, one_line(f"{error}")) for index, _ in asks)
        return
    for (index, _), part in zip(asks, parts, strict=True):
        yield index, bundle.why_failed(part.records) or part.records
