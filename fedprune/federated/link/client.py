"""The device's side: a Flower ClientApp that routes each message to its phase's device half."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedprune import experiment as _experiment
from fedprune import measures
from fedprune.budgets import memory_bytes
from fedprune.data.loading import federation, forget, load_dataset, own_folders
from fedprune.federated.link import privacy
from fedprune.federated.link.bundle import ROUTE as SEVERAL
from fedprune.federated.link.bundle import Part, failed, pack, unpack
from fedprune.federated.link.generators import keep_apart
from fedprune.federated.link.records import from_records, stamp, to_records, values_of
from fedprune.federated.link.requests import check, most_bytes
from fedprune.federated.rounds.device import Device, own_device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import agree, evaluate, local_steps, measure, profile
from fedprune.federated.rounds.phases import check as checking
from fedprune.training import native
from fedprune.training.lean import return_freed_memory
from fedprune.wire.payload import MEMORY, OF, REFUSED, SECONDS, UNUSED, Payload

Half = Callable[[Device, Payload], Payload]
"""A device's half of a phase."""

ROUTES: Mapping[str, Half] = {
    profile.ROUTE: profile.device,
    agree.ROUTE: agree.device,
    local_steps.ROUTE: local_steps.device,
    evaluate.ROUTE: evaluate.device,
    checking.ROUTE: checking.device,
    **{measure.PREFIX + kind: functools.partial(measure.device, kind) for kind in measures.names()},
}
"""Flower's message type -> device half. A new phase is a file and a line here; a new kind of evidence its file."""


SIMULATED = "simulated"
"""Key of a node's config, or environment variable: the device shares its machine, whose free memory says nothing."""
_UNLIMITED = 2**60
_NO_TORCH = "this needs torch, which the device has not: there, pip install 'fedprune[device-torch]'"


def client_app(more: Mapping[str, Half] = MappingProxyType({})) -> ClientApp:
    """A ClientApp with a route for every phase and ``more``, which answers privately where an experiment asks it to."""
    keep_apart()
    app, routes = ClientApp(mods=privacy.MODS), {**ROUTES, **more}
    for route in (*routes, SEVERAL):
        category, _, action = route.partition(".")
        register = {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category]
        half = routes.get(route)
        answer = functools.partial(_handle, half) if half else functools.partial(_several, routes)
        register(*([action] if action else []))(answer)
    return app


def _handle(half: Half, message: Message, context: Context) -> Message:
    part = Part(message.metadata.message_type, message.metadata.group_id, message.content)
    return Message(_reply(half, part, context), reply_to=message)


def _several(routes: Mapping[str, Half], message: Message, context: Context) -> Message:
    replies = []
    for part in unpack(message.content):
        try:
            if part.route not in routes:
                raise ValueError(f"a device has no answer to {part.route!r:.80}")
            replies.append(part._replace(records=_reply(routes[part.route], part, context)))
        except Exception as error:
            replies.append(part._replace(records=failed(error)))
    return Message(pack(replies), reply_to=message)


def _reply(half: Half, part: Part, context: Context) -> RecordDict:
    has, needs = _usable_bytes(context), Job.of(values_of(part.records)).needs_bytes
    of, started = stamp(part.records, part.route, part.round), time.perf_counter()

    def compute() -> RecordDict:
        values = values_of(part.records)
        device = _this_device(str(values.get("experiment", "")), context)
        most = most_bytes(device, part.route, values, part.records)
        # torch has the model whole in any case, and a simulation has more memory than time
        lazily = native.NET in values and not _simulated(context)
        if lazily:
            return_freed_memory()
        request = from_records(part.records, max_bytes=most, lazily=lazily)
        check(device, part.route, request)
        reply = half(device, request)
        more: dict[str, object] = {OF: of}
        if MEMORY in reply.values or "job" in request.values:  # so that the server plans by what there is now
            more[MEMORY] = has
        if unused := sum(device.unused.values()):
            more[UNUSED] = unused
        if not _simulated(context):
            more[SECONDS] = round(time.perf_counter() - started, 3)
        return to_records(reply._replace(values={**reply.values, **more}), request.masks)

    return _within(has, compute, needs, of)


def _simulated(context: Context) -> bool:
    return SIMULATED in context.node_config or SIMULATED in os.environ


def _usable_bytes(context: Context) -> int:
    """What this device's process may use in all; a simulated device has what the experiment says that it has."""
    if _simulated(context):
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
        if _lacks_torch(error):
            raise RuntimeError(_NO_TORCH) from error
        if not needs or not _short_of_memory(error):
            raise
        # with more memory than it needs, as far as anybody can tell: so the server knows that the job failed
        return to_records(refusal)


def _lacks_torch(error: BaseException) -> bool:
    """Whether an error, or one behind it, is that torch cannot be imported."""
    return any(isinstance(e, ImportError) and (e.name or "").partition(".")[0] == "torch" for e in _behind(error))


def _short_of_memory(error: BaseException) -> bool:
    """Whether an error, or one behind it, is memory that the system does not give: torch has no type of its own."""
    for each in _behind(error):
        words = (
            "bad_alloc",
            "allocate memory",
            "Allocator",
            "could not create a primitive",
            "could not create a memory",
        )
        if isinstance(each, MemoryError) or (isinstance(each, RuntimeError) and any(w in str(each) for w in words)):
            return True
    return False


def _behind(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _this_device(text: str, context: Context) -> Device:
    config = context.node_config
    partition, folder = config.get("partition-id"), config.get("data-dir") or config.get("dataset-path")
    if _experiment.from_json(text).data.partition == "own":
        return _own_device(text, context)
    if partition is None:
        raise ValueError("this device does not know which part of the data is its own: node-config wants partition-id")
    folder = folder or context.run_config.get("data-dir")
    return _open(text, int(partition), str(folder) if folder else None, alone=not _simulated(context))


@functools.lru_cache(maxsize=1024)
def _open(text: str, index: int, data_dir: str | None, alone: bool = False) -> Device:
    """A device that holds a part of a data set; one that is ``alone`` in its process keeps nothing else of the set."""
    experiment = _experiment.from_json(text)
    members = federation(experiment, data_dir).devices
    if not 0 <= index < len(members):
        raise ValueError(f"partition-id {index} is outside the {len(members)} devices of {experiment.name}")
    schema = load_dataset(experiment.data.name, data_dir, experiment.task).schema
    if not alone:
        return Device(index, experiment, schema, members[index])
    mine = members[index].alone()
    forget()
    return Device(index, experiment, schema, mine)


def _own_device(text: str, context: Context) -> Device:
    """A device with its own folder; a simulated one has one of the folders that the environment names."""
    config = context.node_config
    if own := config.get("data-dir") or config.get("dataset-path"):
        folder, name, tier = Path(str(own)), str(config.get("name") or ""), str(config.get("tier") or "")
        # Flower's number of a node may be another after each start, and what tests must not train then
        return own_device(text, name or f"node-{context.node_id}", folder, tier, whose=name or folder.name)
    partition = config.get("partition-id")
    if partition is None or not _simulated(context):  # nor does a server say where a real one reads
        raise ValueError(
            "this device does not know where its data lies: join with --data FOLDER; or node-config wants "
            'dataset-path="FOLDER"'
        )
    folder = own_folders(None)[int(partition)]
    return own_device(text, folder.name, folder)
