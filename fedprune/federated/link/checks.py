"""Is a reply to be believed? All that is asked of one before it may touch the state, and the reason where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flwr.app import Message, RecordDict

from fedprune import __version__
from fedprune.federated.link.records import from_records, size, stamp, values_of
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import said
from fedprune.federated.rounds.phases import Phase, divergence
from fedprune.types import DeviceId
from fedprune.wire import FRAME
from fedprune.wire.payload import MEMORY, OF, REFUSED, SECONDS, UNUSED, Payload, count, number

_SLACK = 2**16  # bytes for numbers, names and the library's own framing


class Grown(ValueError):
    """A device with own data has more of it than it is believed to have: recordings may come faster than trust."""


class Diverges(ValueError):
    """A device says that what it trained or tested has diverged: asked again, it would say the same."""


class Asked(NamedTuple):
    """What a reply is judged by: the request, and from which state and job it was made."""

    phase: Phase[Any]
    state: State
    job: Job
    round: int
    request: Payload
    of: str
    """The request's stamp, which the reply repeats."""
    most_bytes: int
    """An honest reply takes no more, encoded or decoded."""


def asked(phase: Phase[Any], state: State, job: Job, round: int, request: Payload, records: RecordDict) -> Asked:
    """How to judge replies to a request; ``records`` hold it as it is sent."""
    tensors = [*request.tensors.items(), *request.masks.items()]
    sent = sum(value.nbytes + len(name) + FRAME for name, value in tensors)
    of = stamp(records, phase.route, str(round))
    return Asked(phase, state, job, round, request, of, (1 + phase.copies) * sent + phase.more(state, job) + _SLACK)


def addressed(reply: Message, route: str, round: int) -> None:
    """ValueError where a reply is not to a message of this type in this round."""
    metadata = reply.metadata
    if (metadata.message_type, metadata.group_id) != (route, str(round)):
        raise ValueError(
            f"a reply to round {metadata.group_id!r:.20}, {metadata.message_type!r:.40}, was asked for "
            f"round {round}, {route}"
        )


def checked(
    records: RecordDict,
    asked: Asked,
    device: DeviceId | None = None,
    holds: Mapping[str, int] | None = None,
    *,
    own: bool = False,
) -> tuple[DeviceId | None, Payload]:
    """(the device that it says to come from, if it does, the payload) of a reply's content that may be used.

    ``device`` and ``holds`` are which device the node was met as, and how many examples it may have by part, where it
    was met. Where it has ``own`` data it may have more, which count for no more than these.
    ValueError, with the reason, where the reply may not be used; Grown where that is no fault of the device, Diverges
    where it says so itself.
    """
    phase, job = asked.phase, asked.job
    if (has := size(records)) > asked.most_bytes:
        raise ValueError(f"a reply of {has:,} bytes, expected {asked.most_bytes:,} at most")
    _stamped(values_of(records), asked.of)
    payload = from_records(records, asked.request.masks, asked.most_bytes)
    if payload.masks:
        raise ValueError(f"expected no masks of the device's own, got {sorted(payload.masks)[:3]}")
    if why := divergence.why(payload.values):
        raise Diverges(why)
    if REFUSED not in payload.values:
        phase.check(asked.state, job, payload)
    elif job.needs_bytes:
        count(payload, REFUSED, least=1)
        count(payload, MEMORY)
    else:
        raise ValueError("refused what needs no memory to speak of")
    if MEMORY in payload.values:
        count(payload, MEMORY)
    if UNUSED in payload.values:
        count(payload, UNUSED)
    if SECONDS in payload.values:
        number(payload, SECONDS, least=0)
    for key in ("loss", "seen"):
        if payload.values.get(key) is not None:  # a loss that is not finite arrives as null
            number(payload, key)
    says = said(payload)
    if device is not None and says not in (None, device):
        raise ValueError(f"the node of device {device} now says that it is device {says}")
    if REFUSED not in payload.values:
        payload = _within_what_it_holds(payload, phase, holds, own=own)
    return says, payload


def _stamped(values: Mapping[str, object], of: str) -> None:
    given = values.get(OF)
    version = given.partition(" ")[0] if isinstance(given, str) else values.get("version")
    if version != __version__:
        raise ValueError(f"the device runs fedprune {version!s:.40}, the server {__version__}")
    if given != of:
        raise ValueError("a reply to another request, such as one of an earlier round")


def _within_what_it_holds(
    payload: Payload, phase: Phase[Any], holds: Mapping[str, int] | None, *, own: bool
) -> Payload:
    for key, part in phase.counts.items() if holds is not None else ():
        most = (holds or {}).get(part, 0)
        if count(payload, key) > most and own and key == phase.weight:
            payload = payload._replace(values={**payload.values, key: most})
        elif count(payload, key) > most and own:
            raise Grown(f"{key} is {payload.values[key]}, of {most} {part} examples that it may have by now")
        elif count(payload, key) > most:
            raise ValueError(f"{key} is {payload.values[key]}, but the device said that it has {most} {part} examples")
    return payload
