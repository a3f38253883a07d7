"""Several requests to a device in one message, and replies to them: over a real link every message costs seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from flwr.app import ConfigRecord, RecordDict

from fedprune.wire.payload import one_line

ROUTE = "query.several"
"""Flower's message type of a bundle."""
_FAILED = "failed"


class Part(NamedTuple):
    """One request, or the reply to it."""

    route: str
    round: str
    records: RecordDict


def pack(parts: Iterable[Part]) -> RecordDict:
    """The parts in one message's content, in order."""
    return RecordDict(
        {
            f"{index} {part.route} {part.round}/{key}": record
            for index, part in enumerate(parts)
            for key, record in part.records.items()
        }
    )


def unpack(records: RecordDict) -> list[Part]:
    """The parts of ``pack``. ValueError where there are others."""
    found: dict[str, Part] = {}
    for name, record in records.items():
        head, slash, key = name.partition("/")
        words = head.split(" ")
        if len(words) != 3 or not slash:
            raise ValueError(f"not a bundle of messages: {name!r:.40}")
        found.setdefault(head, Part(words[1], words[2], RecordDict())).records[key] = record
    return list(found.values())


def failed(error: Exception) -> RecordDict:
    """What a device says of a part that it could not do; the other parts are not lost with it."""
    return RecordDict({_FAILED: ConfigRecord({"why": f"{type(error).__name__}: {error}"})})


def why_failed(records: RecordDict) -> str | None:
    """The error of ``failed``; None where the part is a reply."""
    record = records.config_records.get(_FAILED)
    return None if record is None else one_line(str(record.get("why", "")))
