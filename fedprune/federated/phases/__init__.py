"""The protocol, one step a file: what the server asks, what the device does, how replies reduce."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedprune.federated.device import Device
from fedprune.federated.payload import Payload
from fedprune.federated.state import State


class Reply(NamedTuple):
    """A device's good answer."""

    device: int
    payload: Payload


def _anything(state: State, payload: Payload) -> None:
    """Accept every reply."""


class Phase(NamedTuple):
    """One step of a federated protocol."""

    route: str
    """Flower's message type."""
    request: Callable[[State], Payload]
    """What the server asks; every asked device gets the same."""
    device: Callable[[Device, Payload], Payload]
    """The device's half: a pure function of the device and the request."""
    reduce: Callable[[State, Sequence[Reply]], State]
    """The server's half, over replies in the order of devices."""
    check: Callable[[State, Payload], None] = _anything
    """Raises ValueError for a reply that must not be used."""
