"""Answers of simulated devices, kept until their phase is complete: a round of hours goes on where it was killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedprune.federated.link.passed_on import PassedOn
from fedprune.files import remove, write_atomically

_EVERY_S = 60.0
"""What a killed phase loses of its work at most, but for what devices are at; a shorter phase writes nothing."""


class KeptAnswers(PassedOn):
    """A grid whose answers lie in a folder once they took long, by what was asked of whom; asked again, they are read.

    That is the same answer wherever a device keeps nothing between messages, as simulated ones do. Whoever keeps what
    a phase led to removes the folder.
    """

    def __init__(self, grid: Grid, folder: Path) -> None:
        """``folder`` need not exist; the one that it lies in must, once devices are asked."""
        super().__init__(grid)
        self._folder = folder

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield what is kept, then each reply when it is there; errors are not kept."""
        asked = {message.metadata.dst_node_id: message for message in messages}
        if self._there():
            for node, message in list(asked.items()):
                if (found := self._read(message)) is not None:
                    del asked[node]
                    yield Message(found, reply_to=message)
        new, since = dict[int, RecordDict](), time.monotonic()
        for reply in self._grid.send_and_receive(asked.values(), timeout=timeout):
            if not reply.has_error():
                new[reply.metadata.src_node_id] = reply.content
            if time.monotonic() - since >= _EVERY_S:
                if not self._there():
                    remove(self._folder)
                    self._folder.mkdir()
                for node, content in new.items():
                    write_atomically(self._path(asked[node]), _to_bytes(content))
                new, since = {}, time.monotonic()
            yield reply

    def _there(self) -> bool:
        return self._folder.is_dir() and not self._folder.is_symlink()  # one that leads elsewhere is none of a run's

    def _read(self, message: Message) -> RecordDict | None:
        try:
            return _from_bytes(self._path(message).read_bytes())
        except (OSError, ValueError, TypeError):  # never written, or damaged: the device is asked
            return None

    def _path(self, message: Message) -> Path:
        says = message.metadata
        digest = hashlib.sha256(f"{says.dst_node_id} {says.message_type} {says.group_id}".encode())
        digest.update(_to_bytes(message.content))
        return self._folder / digest.hexdigest()


class _Array(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes


class _Content(msgspec.Struct, frozen=True, array_like=True):
    arrays: dict[str, dict[str, _Array]]
    values: dict[str, dict[str, Any]]


def _to_bytes(records: RecordDict) -> bytes:
    arrays = {
        name: {key: _Array(a.dtype, tuple(a.shape), a.stype, a.data) for key, a in record.items()}
        for name, record in records.array_records.items()
    }
    return msgspec.msgpack.encode((arrays, {name: dict(record) for name, record in records.config_records.items()}))


def _from_bytes(data: bytes) -> RecordDict:
    """The records of ``_to_bytes``. ValueError where they are none."""
    found = msgspec.msgpack.decode(data, type=_Content)
    arrays = {
        name: ArrayRecord({key: Array(a.dtype, a.shape, a.stype, a.data) for key, a in record.items()})
        for name, record in found.arrays.items()
    }
    return RecordDict({**arrays, **{name: ConfigRecord(dict(record)) for name, record in found.values.items()}})
