"""The protocol, one step a file: what the server asks, what the device does, how replies reduce."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.types import DeviceId
from fedprune.wire.payload import Payload

Answer = TypeVar("Answer")


class Reply(NamedTuple):
    """A device's good answer."""

    device: DeviceId
    payload: Payload
    job: Job = Job()
    """What it was asked to do."""
    left_out: str = ""
    """Why nothing is made of it, although it is no fault."""


def _anything(state: State, job: Job, payload: Payload) -> None:
    """Accept every reply."""


class Phase(NamedTuple, Generic[Answer]):
    """One step of a federated protocol."""

    route: str
    """Flower's message type."""
    request: Callable[[State, Job], Payload]
    """What the server asks; devices with the same job get the same."""
    device: Callable[[Device, Payload], Payload]
    """The device's half: a pure function of the device and the request."""
    reduce: Callable[[State, Sequence[Reply]], Answer]
    """The server's half: what the replies, in the order of devices, come to."""
    check: Callable[[State, Job, Payload], None] = _anything
    """Raises ValueError for a reply that must not be used."""
    counts: Mapping[str, str] = MappingProxyType({})
    """Counts of examples in a reply -> the part of the device's data that has them: train, development or test."""
    weight: str = ""
    """Of these the one that only weighs a reply in an average, so that it can be taken for less than it says."""
    copies: int = 1
    """How many times over a reply may say something of every tensor that was sent, such as once a candidate."""
    more: Callable[[State, Job], int] = lambda state, job: 0
    """Bytes that an honest reply may take besides."""
