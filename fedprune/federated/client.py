"""The device's side: a Flower ClientApp that routes each message to its phase's device half."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedprune import experiment as _experiment
from fedprune.budgets import memory_bytes
from fedprune.federated import device as _device
from fedprune.federated.device import Device
from fedprune.federated.jobs import Job
from fedprune.federated.payload import MEMORY, OF, REFUSED, Payload, from_records, stamp, to_records, values_of
from fedprune.federated.phases import candidates, evaluate, grow, profile, ranges, train

ROUTES: dict[str, Callable[[Device, Payload], Payload]] = {
    profile.ROUTE: profile.device,
    candidates.STATISTICS: candidates.statistics_device,
    candidates.LOSS: candidates.loss_device,
    train.ROUTE: train.device,
    grow.ROUTE: grow.device,
    evaluate.ROUTE: evaluate.device,
    ranges.ROUTE: ranges.device,
}
"""Flower's message type -> device half. A new phase is a file and a line here."""


SIMULATED = "simulated"
"""Key of a node's config, or environment variable: the device shares its machine, whose free memory says nothing."""
_UNLIMITED = 2**60


def client_app() -> ClientApp:
    """A ClientApp with a route for every phase."""
    app = ClientApp()
    for route, half in ROUTES.items():
        category, _, action = route.partition(".")
        register = {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category]
        register(*([action] if action else []))(functools.partial(_handle, half))
    return app


def _handle(half: Callable[[Device, Payload], Payload], message: Message, context: Context) -> Message:
    has, needs = _usable_bytes(context), Job.of(values_of(message.content)).needs_bytes
    of = stamp(message.content, message.metadata.message_type, message.metadata.group_id)

    def compute() -> RecordDict:
        request = from_records(message.content)
        reply = half(_this_device(str(request.values["experiment"]), context), request)
        if MEMORY in reply.values or "job" in request.values:  # so that the server plans by what there is now
            reply = reply._replace(values={**reply.values, MEMORY: has})
        return to_records(reply._replace(values={**reply.values, OF: of}), request.masks)

    return Message(_within(has, compute, needs, of), reply_to=message)


def _usable_bytes(context: Context) -> int:
    """What this device's process may use in all; a simulated device has what the experiment says that it has."""
    if SIMULATED in context.node_config or SIMULATED in os.environ:
        return _UNLIMITED
    stated = context.node_config.get("memory-mb")
    return min(memory_bytes(), int(float(stated) * 2**20)) if stated is not None else memory_bytes()


def _within(has: int, compute: Callable[[], RecordDict], needs: int, of: str) -> RecordDict:
    """The reply, or a refusal where the job would need more than the bytes that this process may use."""
    refusal = Payload({REFUSED: needs, MEMORY: has, OF: of})
    if needs > has:
        return to_records(refusal)
    try:
        return compute()
    except Exception as error:
        if not needs or not _short_of_memory(error):
            raise
        # with more memory than it needs, as far as anybody can tell: so the server knows that the job failed
        return to_records(refusal)


def _short_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is memory that the system does not give: torch has no type of its own."""
    while error is not None:
        words = (
            "bad_alloc",
            "allocate memory",
            "Allocator",
            "could not create a primitive",
            "could not create a memory",
        )
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _this_device(text: str, context: Context) -> Device:
    partition = context.node_config.get("partition-id")
    if partition is None:
        raise ValueError("this device does not know which part of the data is its own: node-config wants partition-id")
    folder = context.node_config.get("data-dir") or context.run_config.get("data-dir")
    return _open(text, int(partition), str(folder) if folder else None)


@functools.lru_cache(maxsize=1024)
def _open(text: str, index: int, data_dir: str | None) -> Device:
    experiment = _experiment.from_json(text)
    members = _device.federation(experiment, data_dir).devices
    if not 0 <= index < len(members):
        raise ValueError(f"partition-id {index} is outside the {len(members)} devices of {experiment.name}")
    return Device(index, experiment, _device.load_dataset(experiment.data.name, data_dir), members[index])
