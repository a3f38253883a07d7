"""Phase profile: a device says who it is and what it holds; Flower's server cannot see either."""

from collections.abc import Sequence

from fedprune import __version__
from fedprune.budgets import memory_bytes
from fedprune.data.parts import PARTS
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.naming import said
from fedprune.federated.rounds.phases import Phase, Reply
from fedprune.training import native
from fedprune.wire.payload import COMPILED, MEMORY, Payload, count

ROUTE = "query.profile"
_MOST = 2**31 - 1  # examples; more would only buy weight in averages


def profile() -> Phase[None]:
    """Ask every device for its index, its version, the sizes of its parts and the memory that it may use."""
    return Phase(ROUTE, lambda state, job: Payload(), device, reduce, check)


def device(self: Device, request: Payload) -> Payload:
    """Index, version, number of training, development and test examples, bytes that its process may use, and whether it
    has the compiled trainer."""
    self.log_unknown()
    told = {"device": self.who, "version": __version__, MEMORY: memory_bytes(), COMPILED: native.installed()}
    return Payload({**told, **self.parts.sizes()})


def reduce(state: State, replies: Sequence[Reply]) -> None:
    """Nothing: who the devices are is no part of the model."""


def check(state: State, job: Job, payload: Payload) -> None:
    """The device runs this version of fedprune: another may train something else."""
    if said(payload) is None:
        raise ValueError("the device does not say which one it is")
    for key in PARTS:
        count(payload, key, most=_MOST)
    count(payload, MEMORY)
    if not isinstance(payload.values.get(COMPILED), bool):
        raise ValueError(f"the device says {payload.values.get(COMPILED)!r:.40} of whether it has the compiled trainer")
    if payload.values.get("version") != __version__:
        raise ValueError(f"the device runs fedprune {payload.values.get('version')}, the server {__version__}")
