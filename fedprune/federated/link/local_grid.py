"""The same apps without Flower's processes: a Grid that calls the ClientApp itself, here or in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

# The one private door of Flower's that an in-process Grid needs: messages read the sender's identity from it.
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN, _SERVER, _FIRST_NODE = 1, 1, 1000
_RAISED, _CRASHED = 2, 8  # Flower's codes for an app that raised, and for one that died

MakeApp = Callable[[], ClientApp]
Config = Mapping[str, int | bool]
"""What all nodes' configurations have."""


class LocalGrid(Grid):
    """``devices`` nodes on this machine. Messages are Flower's own, so bytes and contents are those of a real link.

    With ``workers`` > 1, devices run in that many spawned processes; what they compute does not depend on it. A device
    that raises, or a worker that dies, answers with an error; the others, and later rounds, go on.
    """

    def __init__(self, make_app: MakeApp, devices: int, workers: int = 1, *, simulated: bool = True) -> None:
        """``make_app`` must be importable by name where there are several workers.

        Devices that are not ``simulated`` behave as real ones do, each with a machine of its own.
        """
        self._make_app, self._devices, self._workers = make_app, devices, min(workers, devices)
        self._config = {"num-partitions": devices, **({"simulated": True} if simulated else {})}
        self._app = make_app() if self._workers <= 1 else None
        self._pool: ProcessPoolExecutor | None = None
        self.heard: Callable[[Message], object] = lambda message: None
        """Told of every message before it is delivered."""
        self._replies: dict[str, Message] = {}
        _identify()

    def set_run(self, run: Run) -> None:
        """Nothing to set: a local grid serves one run."""

    @property
    def run(self) -> Run:
        """An empty run."""
        return Run.create_empty(_RUN)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message from the server of this run."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """One node a device."""
        return [_FIRST_NODE + index for index in range(self._devices)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver, compute, and keep the replies for ``pull_messages``."""
        identifiers = []
        for reply in self.send_and_receive(messages):
            identifiers.append(reply.metadata.reply_to_message_id)
            self._replies[identifiers[-1]] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages, once."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield each reply when it is there, in the order of the messages. There is no link to wait for: no timeout."""
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            self.heard(message)
        if self._app is not None:
            for message in messages:
                yield _answer(self._app, message, self._config)
            return
        futures = [self._submit(message) for message in messages]
        broken = self._pool
        for message, future in zip(messages, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                if self._pool is broken:
                    self._pool = None  # the next message starts new workers
                yield self._alone(message)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> LocalGrid:
        """The grid itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    def _alone(self, message: Message) -> Message:
        """Ask again with no other message under way: a worker that dies takes all with it, and none says whose it was.

        A device keeps nothing between messages, so asking twice changes nothing.
        """
        try:
            return self._submit(message).result()
        except BrokenProcessPool:
            self._pool = None
            return Message(Error(_CRASHED, "the worker process of this device died"), reply_to=message)

    def _submit(self, message: Message) -> Future[Message]:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, spawn, _start_worker, (self._make_app,))
        try:
            return self._pool.submit(_work, message, self._config)
        except BrokenProcessPool as error:
            lost: Future[Message] = Future()
            lost.set_exception(error)
            return lost


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker_app: ClientApp | None = None


def _start_worker(make_app: MakeApp) -> None:
    global _worker_app
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then ends its workers
    _identify()
    _worker_app = make_app()


def end_with_parent() -> None:
    """End this worker when the process that started it is gone: it would wait for work for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(message: Message, config: Config) -> Message:
    assert _worker_app is not None
    return _answer(_worker_app, message, config)


def _answer(app: ClientApp, message: Message, config: Config) -> Message:
    """What the device says, or an error as Flower's own runtime words it."""
    index = message.metadata.dst_node_id - _FIRST_NODE
    context = Context(
        run_id=_RUN,
        node_id=message.metadata.dst_node_id,
        node_config={**config, "partition-id": index},
        state=RecordDict(),
        run_config={},
    )
    try:
        return app(message, context)
    except Exception:
        return Message(Error(_RAISED, traceback.format_exc()), reply_to=message)


def _identify() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN, _SERVER
