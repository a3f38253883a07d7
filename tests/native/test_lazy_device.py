"""A real device reads its message one tensor at a time: it says what one says that decodes it at once."""

from __future__ import annotations

import numpy as np
import pytest
from device_messages import phases, pruned
from device_messages import sent as messages
from flwr.app import Array, ArrayRecord, Context, RecordDict

from fedprune.federated.link import client
from fedprune.federated.link.bundle import Part
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases import profile, train
from fedprune.native import library
from fedprune.wire import WireError
from fedprune.wire.payload import Payload

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
Sent = list[tuple[str, RecordDict]]


@pytest.fixture(scope="module")
def sent() -> Sent:
    """One of every phase that a device without torch answers."""
    setting, state = pruned()
    return messages(setting, [(phase, state, Job()) for phase in phases(setting, state)])


def blobs(records: RecordDict) -> dict[str, bytes]:
    return {name: array.data for name, array in records.array_records["fedprune.tensors"].items()}


def context(*, simulated: bool) -> Context:
    more = {"simulated": True} if simulated else {}
    return Context(0, 0, {"partition-id": 1, **more}, RecordDict(), {})


def test_a_device_that_reads_one_tensor_at_a_time_says_the_same(sent: Sent) -> None:
    """As a simulated one, which decodes its message at once."""
    for route, records in sent:
        part = Part(route, "1", records)
        replies = [client._reply(client.ROUTES[route], part, context(simulated=each)) for each in (False, True)]
        one, other = ({**client.values_of(reply)} for reply in replies)
        assert blobs(replies[0]) == blobs(replies[1])
        if route != profile.ROUTE:
            assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("kind", ["tensors", "masks"])
def test_a_message_that_is_damaged_anywhere_is_refused_before_training(sent: Sent, kind: str) -> None:
    begun = []

    def half(device: Device, request: Payload) -> Payload:
        begun.append(request)
        return Payload()

    (records,) = (records for route, records in sent if route == train.ROUTE)
    whole, rng = blobs(records), np.random.default_rng(0)
    cuts = rng.integers(2, len(whole[kind]), 20).tolist()
    for damaged in (*(whole[kind][:cut] for cut in cuts), whole[kind] + b"\0"):
        content = {**whole, kind: damaged}
        array = ArrayRecord({n: Array("uint8", (len(b),), "fedprune.wire", b) for n, b in content.items()})
        part = Part(train.ROUTE, "1", RecordDict({**records, "fedprune.tensors": array}))
        said = []
        for each in (False, True):
            with pytest.raises(WireError) as raised:
                client._reply(half, part, context(simulated=each))
            said.append(str(raised.value))
        assert said[0] == said[1]
        assert "\n" not in said[0]
    assert not begun
