"""Replies of one device, changed on their way to the server."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fedprune.federated.link.records import from_records, to_records
from fedprune.wire.payload import Payload

LIAR = 2  # the device whose replies are changed


def lie(route: str, change: Callable[[Payload], Payload | RecordDict | Error]) -> Callable[[Message, Message], Message]:
    """Changes the liar's replies to one phase on their way to the server."""

    def changed(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type != route or asked.metadata.dst_node_id != 1000 + LIAR:
            return reply
        masks = from_records(asked.content).masks
        wrong = change(from_records(reply.content, masks))
        return Message(to_records(wrong) if isinstance(wrong, Payload) else wrong, reply_to=asked)

    return changed


def with_values(**values: Any) -> Callable[[Payload], Payload]:
    return lambda payload: payload._replace(values={**payload.values, **values})


def without_value(key: str) -> Callable[[Payload], Payload]:
    return lambda payload: payload._replace(values={k: v for k, v in payload.values.items() if k != key})


def with_tensor(name: str, of: Callable[[np.ndarray], np.ndarray]) -> Callable[[Payload], Payload]:
    return lambda payload: payload._replace(tensors={**payload.tensors, name: of(payload.tensors[name])})


def without_tensor(name: str) -> Callable[[Payload], Payload]:
    return lambda payload: payload._replace(tensors={k: v for k, v in payload.tensors.items() if k != name})


def raw(**blobs: bytes) -> Callable[[Payload], RecordDict]:
    """A reply of these bytes, in the records that a good one has."""

    def make(payload: Payload) -> RecordDict:
        arrays = {
            name: Array(dtype="uint8", shape=(len(data),), stype="fedprune.wire", data=data)
            for name, data in blobs.items()
        }
        values = ConfigRecord({"json": msgspec.json.encode(dict(payload.values))})
        return RecordDict({"fedprune.tensors": ArrayRecord(arrays), "fedprune.values": values})

    return make
