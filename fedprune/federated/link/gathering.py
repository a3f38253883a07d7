"""Who is there: waiting for devices, asking them who they are, and what data of their own they have."""

from __future__ import annotations

import time
from math import ceil
from typing import TYPE_CHECKING

from fedprune.data.agreement import Agreed
from fedprune.data.agreement import agree as merge
from fedprune.federated.link.exchange import exchange
from fedprune.federated.rounds.asking import Request, RunStopped
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import ordered, place
from fedprune.federated.rounds.phases import Reply
from fedprune.federated.rounds.phases.agree import agree
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.standing import ASIDE
from fedprune.types import DeviceId
from fedprune.wire.payload import UNUSED

if TYPE_CHECKING:
    from fedprune.federated.link.asking import Link

_SAYS_S = 120.0
"""How long a device may take to say who it is."""
_READS_S = 600.0
"""How long it may take to read all of its files for the first time."""
_AGAIN_S = 5.0
_SHOWN = 5  # devices that a notice names


def agreed(link: Link) -> Agreed:
    """Ask devices with their own data what it is like: classes, shape, constants, and how many examples each has.

    RunStopped where too few answer; DataError where what they have is nothing to train on.
    """
    data = link.experiment.data
    wanted = data.devices or link.wanted
    nodes = _connected(link, wanted or 1, time.monotonic() + link.patience_s)
    if not wanted and link.first_limit_s:  # others may be on their way
        time.sleep(_AGAIN_S)
        nodes = sorted(link.grid.get_node_ids())
    phase, limit = agree(data), link.experiment.deadline_s or min(link.first_limit_s, _READS_S) or None
    asked = Request(phase, State(0, {}), {}, 0), dict.fromkeys(nodes, Job())
    said = exchange(link.grid, link.experiment, [asked], {}, Fleet({}, ()), limit)[0]
    faults, replies = dict(said.faults), dict[DeviceId, Reply]()
    for node, reply in sorted(said.good, key=lambda answer: answer[0]):
        if why := _other(link, node, reply.device) or ("has a name that another has" * (reply.device in replies)):
            faults[node] = f"says that it is {reply.device}, but {why}"
        else:
            replies[reply.device] = reply
    for node, why in faults.items():
        link.say({"notice": f"{link.name_of(node) or f'node {node}'} takes no part yet: {why}"})
    if len(replies) < max(1.0, link.experiment.least_replies * wanted):
        why = "".join(f"; {reason}" for reason in list(faults.values())[:1])
        raise RunStopped(f"{len(replies)} of {wanted or len(nodes)} devices said what data they have{why}")
    found = merge(data, phase.reduce(State(0, {}), [replies[device] for device in ordered(replies)]))
    for device, reply in replies.items():
        if unused := reply.payload.values.get(UNUSED):
            what = f"{unused} files, or examples of unknown labels, cannot be used"
            link.say({"notice": f"{device}: {what}; see there: fedprune data check FOLDER --like FILE"})
    for notice in found.notices:
        link.say({"notice": notice})
    return found


def _other(link: Link, node: int, device: DeviceId) -> str:
    """Whose key a node has, where devices go by names and that is another's than it says."""
    name = link.name_of(node) if link.experiment.data.partition == "own" else None
    return f"its key is that of {name}" if name is not None and name != device else ""


def gathered(link: Link, fleet: Fleet, state: State, round: int, enough: float) -> Fleet:
    """The fleet of whoever is connected once ``enough`` are, or the patience ends, and says who it is.

    RunStopped where less than the experiment's least part of the devices is there then.
    """
    until = time.monotonic() + link.patience_s
    nodes = _connected(link, enough, until)
    known = {node: why for node, why in fleet.strangers.items() if node in nodes}
    before, fleet = fleet, fleet.present(nodes)._replace(strangers=known)
    # one that is nobody's may have been mended, but is not worth a message in every round
    due = [node for node in nodes if node not in fleet.nodes.values() and not (node in known and round % ASIDE)]
    due += [fleet.nodes[device] for device in fleet.idle()]
    if due:
        limit = link.experiment.deadline_s or min(link.first_limit_s, _SAYS_S) or None
        asked = Request(profile(), state, {}, round), dict.fromkeys(due, Job())
        said = exchange(link.grid, link.experiment, [asked], {}, fleet, limit)[0]
        others = {node: why for node, reply in said.good if (why := _other(link, node, reply.device))}
        answers = [(n, r.device, r.payload) for n, r in said.good if n not in others]
        answers.sort(key=lambda answer: place(answer[1]))
        fleet = fleet.joined(answers, {**said.faults, **others})
    few = len(fleet.nodes) < fleet.expected.least * fleet.expected.devices
    if few and link.first_limit_s and time.monotonic() < until:
        # a device that lost its power is held for connected for a while, and let in again only after that
        time.sleep(_AGAIN_S)
        rest = link._replace(patience_s=max(0.0, until - time.monotonic()))
        return gathered(rest, fleet._replace(strangers={}), state, round, enough)
    missing = [device for device in fleet.expected.roster() if device not in fleet.nodes]
    if few:
        why = "".join(f"; {reason}" for reason in list(fleet.strangers.values())[:1])
        raise RunStopped(
            f"{link.experiment.name} has {fleet.expected.devices} devices, but {len(fleet.nodes)} of {len(nodes)} "
            f"nodes answered well (device {missing[0]} is missing){why}"
        )
    for notice in _changes(before, fleet) if before.nodes else ():
        link.say({"notice": f"round {round}: {notice}"})
    return fleet


def _changes(before: Fleet, now: Fleet) -> list[str]:
    """Who is gone, and who has come, in a few words each."""
    changes = {
        "not connected any more": [device for device in before.nodes if device not in now.nodes],
        "takes part from now on": [device for device in now.nodes if device not in before.nodes],
    }
    return [
        f"{', '.join(f'device {each}' if isinstance(each, int) else each for each in devices[:_SHOWN])}"
        f"{f' and {len(devices) - _SHOWN} more' if len(devices) > _SHOWN else ''}: {what}"
        for what, devices in changes.items()
        if devices
    ]


def _connected(link: Link, enough: float, until: float) -> list[int]:
    """All nodes, once ``enough`` are connected or it is ``until``; who waits is told how many are."""
    told = -1
    while len(nodes := sorted(link.grid.get_node_ids())) < enough and time.monotonic() < until:
        if len(nodes) != told and link.first_limit_s:
            told = len(nodes)
            link.say({"notice": f"waiting for devices: {told} of {ceil(enough)} are connected"})
        time.sleep(0.1 if not link.first_limit_s else 0.5)
    return nodes
