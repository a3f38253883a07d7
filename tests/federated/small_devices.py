"""Devices with really little memory: a process of their own, whose address space the system limits.

Importable by name, as the process is spawned.
"""

import ctypes
import gc
import multiprocessing
import resource
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import tiny_world
from fleets import drive
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedprune.budgets import measure
from fedprune.experiment import Experiment
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid, _identify
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.model import State, read
from fedprune.runs.folder import RunFolder
from fedprune.runs.planning import FleetPlan
from fedprune.runs.setting import prepare
from fedprune.wire.payload import Payload


def wide(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A net of two million weights between its first layer and its last, so that parts differ by megabytes."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(144, 1500),
        nn.ReLU(),
        nn.Linear(1500, 1500),
        nn.ReLU(),
        nn.Linear(1500, classes),
    )


def experiment(**changes: Any) -> Experiment:
    """Four devices in two tiers that state no limit, so that only what devices say binds."""
    table: dict[str, Any] = {
        "model": "small_devices:wide",
        "rounds": 4,
        "method": {"name": "magnitude", "density": 0.5},
        "fleet": {"large": {"devices": 2}, "small": {"devices": 2, "density": 0.05}},
        "training": {
            "batch": 8,
            "grow_batch": 16,
            "learning_rate": 0.01,
            "engine": "torch",
        },  # whose needs are far apart
        "pretraining": {"epochs": 0},
        "data": {"name": "tiny_world:load", "partition": "iid", "devices": 4, "public": 0.2, "examples": 120},
    }
    return tiny_world.experiment(**{**table, **changes})


class Limit(NamedTuple):
    """What a device's process may use while it answers one message."""

    bytes: int = 0
    """In all, what it uses already included; held by the system. 0 is no limit."""
    stated_mb: float | None = None
    """What its node-config says."""
    understated: bool = False
    """Whether its job is said to need next to nothing, so that only the allocation itself can fail."""
    taken: bool = False
    """Whether another part of the process takes most of what is left once the job was found to fit."""


Limits = Callable[[int, str, int], Limit | None]
"""(device, route, round) -> its limit; None for a device without one, which this process answers for."""


class SmallProcess:
    """A process that stands for one limited device after the other, since a device keeps nothing between messages."""

    def __init__(self) -> None:
        """Nothing is started before it is asked."""
        self._process: Any = None
        self._link: Connection | None = None

    def ask(self, message: Message, device: int, devices: int, limit: Limit) -> Message:
        """What the device answers; an error where its process dies."""
        if self._link is None:
            spawn = multiprocessing.get_context("spawn")
            self._link, theirs = spawn.Pipe()
            self._process = spawn.Process(target=_work, args=(theirs,))
            self._process.start()
            theirs.close()
        try:
            self._link.send((message, device, devices, limit))
            reply: Message = self._link.recv()
        except (EOFError, ConnectionError):
            self.close()
            return Message(Error(8, "the process of this device died"), reply_to=message)
        return reply

    def close(self) -> None:
        """End it."""
        if self._link is not None:
            self._link.close()
            self._process.join()
            self._process = self._link = None


class SmallDevices(LocalGrid):
    """A local grid whose limited devices answer in a process that has no more memory."""

    def __init__(self, devices: int, limits: Limits, process: SmallProcess) -> None:
        """``limits`` is asked before each message."""
        super().__init__(client_app, devices)
        self._limits, self._small = limits, process

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """As of a local grid."""
        for message in messages:
            device = message.metadata.dst_node_id - self.get_node_ids()[0]
            limit = self._limits(device, message.metadata.message_type, int(message.metadata.group_id))
            message.metadata.__dict__["_message_id"] = f"{id(message)}"
            if limit is None:
                yield from super().send_and_receive([message])
            elif limit.bytes:
                yield self._small.ask(message, device, self._devices, limit)
            else:
                assert self._app is not None
                yield _answer(self._app, message, device, self._devices, limit)


def _work(link: Connection) -> None:
    _identify()
    measure(torch=True)  # as a device does once: loads what a first step loads
    app = tiny_world.app_with({"train": _taking})
    while True:
        try:
            message, device, devices, limit = link.recv()
        except EOFError:
            return
        link.send(_answer(app, message, device, devices, limit))


def _answer(app: ClientApp, message: Message, device: int, devices: int, limit: Limit) -> Message:
    global _take
    _take = limit.taken
    config: dict[str, Any] = {"partition-id": device, "num-partitions": devices}
    if limit.stated_mb is not None:
        config["memory-mb"] = limit.stated_mb
    if limit.understated:
        request = from_records(message.content)
        job = {**request.values["job"], "needs_bytes": 1}
        message.content = to_records(request._replace(values={**request.values, "job": job}))
        del request
    context = Context(1, message.metadata.dst_node_id, config, RecordDict(), {})
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what earlier messages left in the heap is this one's to ask for again
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    try:
        if limit.bytes:
            used = psutil.Process().memory_info()
            resource.setrlimit(resource.RLIMIT_AS, (used.vms + max(0, limit.bytes - used.rss), unlimited[1]))
        return app(message, context)
    except Exception as error:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)  # the words need room too
        return Message(Error(2, "".join(traceback.format_exception(error))), reply_to=message)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)


_take = False


def _all_but(left: int) -> list[bytearray]:
    """What leaves so many bytes: also what earlier messages gave back to the heap, which no limit counts again."""
    taken, block = list[bytearray](), 2**16
    try:
        while True:
            taken.append(bytearray(block))
    except MemoryError:
        del taken[-(left // block) :]
    return taken


def _taking(half: tiny_world.Half) -> tiny_world.Half:
    def device(self: Device, request: Payload) -> Payload:
        taken = _all_but(2**20) if _take else []
        reply = half(self, request)
        del taken
        return reply

    return device


class Run(NamedTuple):
    """What a run with small devices left."""

    rows: list[dict[str, Any]]
    states: list[State]
    plan: FleetPlan

    def of(self, phase: str) -> dict[int, dict[str, Any]]:
        """Round -> its line, of a phase with one line a round."""
        return {row["round"]: row for row in self.rows if row["phase"] == phase}


def run(path: Path, experiment: Experiment, limits: Limits, process: SmallProcess) -> Run:
    """A whole run whose devices have only so much memory."""
    setting, folder, states = prepare(experiment, "test"), RunFolder(path), dict[int, State]()
    assert setting.plan is not None
    folder.begin(experiment)
    keep = folder.save

    def save(state: State) -> None:
        keep(state)
        if state.round >= 0 and "train" not in state.done:
            states[state.round] = read(folder.checkpoint)

    folder.save = save  # type: ignore[method-assign]
    with SmallDevices(len(setting.holds), limits, process) as grid:
        drive(grid, setting, folder, None, lambda row: None)
    return Run(folder.rows(), list(states.values()), setting.plan)
