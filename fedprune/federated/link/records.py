"""What crosses the link: scalars, masks and tensors in our own encoding, inside Flower's records."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedprune import __version__
from fedprune.types import Masks
from fedprune.wire.payload import Payload, from_blobs, to_blobs

_TENSORS, _VALUES = "fedprune.tensors", "fedprune.values"
_MOST_VALUES = 2**22  # as JSON; a graph of a thousand operations is a tenth of it


def to_records(payload: Payload, known: Masks | None = None) -> RecordDict:
    """Flower's records of a payload. ``known`` are masks that the receiver holds: they shorten the tensors."""
    record = ArrayRecord({name: _as_array(data) for name, data in to_blobs(payload, known or {}).items()})
    values = ConfigRecord({"json": msgspec.json.encode(dict(payload.values))})
    return RecordDict({_TENSORS: record, _VALUES: values})


def values_of(records: RecordDict) -> dict[str, Any]:
    """The values of a payload alone, which need little memory. ValueError where they are damaged, or too many."""
    try:
        text = records.config_records[_VALUES]["json"]
        if isinstance(text, bytes | str) and len(text) > _MOST_VALUES:
            raise ValueError(f"{len(text):,} bytes of values, expected {_MOST_VALUES:,} at most")
        values = msgspec.json.decode(text if isinstance(text, bytes | str) else b"")
    except (KeyError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not a fedprune message: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("not a fedprune message: its values are no table")
    return values


def from_records(
    records: RecordDict, known: Masks | None = None, max_bytes: int = 2**31, *, lazily: bool = False
) -> Payload:
    """The payload of ``to_records``; ``lazily``, each tensor is made when it is asked for.

    ValueError (or wire.WireError, its subclass) where it is damaged or, before allocating, where its tensors or its
    masks would take more than ``max_bytes``.
    """
    values = values_of(records)
    try:
        blobs = {name: array.data for name, array in records.array_records[_TENSORS].items()}
    except KeyError as error:
        raise ValueError(f"not a fedprune message: {error}") from error
    return from_blobs(values, blobs, known or {}, max_bytes, lazily=lazily)


def stamp(records: RecordDict, route: str, round: str) -> str:
    """What a reply repeats of its request: the version of fedprune, and a checksum of route, round and tensors.

    So a reply to an earlier request is told apart, and a device that was updated in the middle of a run.
    """
    found = zlib.crc32(f"{route} {round}".encode())
    for array in records.array_records[_TENSORS].values():
        found = zlib.crc32(array.data, found)
    return f"{__version__} {found:08x}"


def size(records: RecordDict) -> int:
    """Bytes of a message's content, names included."""
    return sum(record.count_bytes() for record in records.values())


def _as_array(data: bytes) -> Array:
    return Array(dtype="uint8", shape=(len(data),), stype="fedprune.wire", data=data)
