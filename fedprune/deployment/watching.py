"""A Grid that keeps account of each node: when it answered last, in how many rounds, with what memory or error."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedprune.deployment import fleet_files
from fedprune.federated.link import bundle
from fedprune.federated.link.passed_on import PassedOn
from fedprune.federated.link.records import values_of
from fedprune.files import write_atomically
from fedprune.wire.payload import COMPILED, MEMORY, TRAINER, TRAINERS

_PAUSES_S = (1.0, 5.0, 15.0)
_Result = TypeVar("_Result")
_RAISED = re.compile(r"<class '(?:[^']*\.)?([^'.]+)'>:<'(.*)'>", re.DOTALL)
_LETTERS = 300
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.3, 3.0


class Watched(PassedOn):
    """Passes everything on to ``grid``, and writes what it sees to ``file`` after each exchange.

    ``file`` holds a table for each node id: ``last_reply`` (UTC), ``rounds`` answered, the last of them ``round``,
    ``lag_s`` until its last reply was there, which ``device`` it is, ``memory_bytes``, the ``trainer`` that it
    used last and whether it has the ``compiled`` one, ``error``.
    """

    def __init__(self, grid: Grid, file: Path) -> None:
        """What ``file`` holds, of the same run before it was cut off, is gone on from."""
        super().__init__(grid)
        self._file = file
        self._nodes = {int(node): told for node, told in fleet_files.seen(file).items() if node.isdecimal()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies of ``grid``, noted."""
        messages = list(messages)
        replies = self._exchanged(messages, timeout)
        silent = {message.metadata.dst_node_id for message in messages}
        for reply in replies:
            if reply.metadata.src_node_id in silent:  # a link's own word of a node that is away has the link's id
                silent.remove(reply.metadata.src_node_id)
                self._note(reply)
        for node in silent:
            self._nodes.setdefault(node, {})["error"] = "no reply"
        write_atomically(self._file, json.dumps(self._nodes).encode())
        return replies

    def _exchanged(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """The replies that come in time. Flower's own grid asks for them every three seconds, and no sooner."""
        started, replies = time.monotonic(), []
        waiting = {name for name in _insisted(functools.partial(self._grid.push_messages, messages)) if name}
        while waiting and (timeout is None or time.monotonic() < started + timeout):
            new = list(_insisted(functools.partial(self._grid.pull_messages, waiting)))
            waiting -= {reply.metadata.reply_to_message_id for reply in new}
            replies += new
            for reply in new:
                if reply.has_error():
                    reply.error = Error(reply.error.code, _plain(reply.error.reason or ""))
                self._nodes.setdefault(reply.metadata.src_node_id, {})["lag_s"] = round(time.monotonic() - started, 1)
            if waiting and not new:
                time.sleep(min(_MOST_PAUSE_S, max(_LEAST_PAUSE_S, (time.monotonic() - started) / 20)))
        return replies

    def _note(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        seen = self._nodes.setdefault(node, {})
        seen["last_reply"] = datetime.now(UTC).isoformat(timespec="seconds")
        if reply.has_error():
            lines = (reply.error.reason or "").strip().splitlines()
            seen["error"] = lines[-1].strip()[:300] if lines else "an error without a reason"
            return
        round = int(reply.metadata.group_id) if reply.metadata.group_id.isdecimal() else -1
        if round > seen.get("round", -1):  # one that is resumed may come again
            seen |= {"rounds": seen.get("rounds", 0) + 1, "round": round}
        several = reply.metadata.message_type == bundle.ROUTE
        try:
            for part in bundle.unpack(reply.content) if several else [bundle.Part("", "", reply.content)]:
                if (why := bundle.why_failed(part.records)) is not None:
                    seen["error"] = why
                    continue
                values = values_of(part.records)
                seen |= {key: int(values[key]) for key in (MEMORY, "device") if isinstance(values.get(key), int)}
                if isinstance(values.get(COMPILED), bool):
                    seen[COMPILED] = values[COMPILED]
                if values.get(TRAINER) in TRAINERS:
                    seen[TRAINER] = values[TRAINER]
                if isinstance(values.get("device"), str):  # by its name
                    seen["device"] = values["device"]
        except ValueError as error:
            seen["error"] = str(error)

    def get_node_ids(self) -> Iterable[int]:
        """As ``grid`` says."""
        return _insisted(self._grid.get_node_ids)


def _plain(reason: str) -> str:
    """What a device's app raised, in one line as Python says it: Flower has the class and the message as a program."""
    found = _RAISED.fullmatch(reason.strip())
    return " ".join((f"{found[1]}: {found[2]}" if found else reason).split()).removesuffix(":")[:_LETTERS]


def _insisted(call: Callable[[], _Result]) -> _Result:
    """What a question to the SuperLink gives, asked again where it had no time for it.

    A message that it holds already stays one message.
    """
    for pause_s in _PAUSES_S:
        try:
            return call()
        except Exception:  # whatever Flower's client raises: a lock of its database, an expired session
            time.sleep(pause_s)
    return call()
