"""What crosses the link is Flower's own: it survives Flower's serialisation, and its bytes are what a row says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_world
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from fedprune import wire
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, size, to_records
from fedprune.wire.payload import Payload, number


def over_the_wire(message: Message) -> Message:
    """As it arrives at the other end: Flower's protobuf, as bytes."""
    return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


def test_every_message_of_a_run_survives_flowers_serialisation(whole: Any) -> None:
    routes = set()
    for asked, reply in whole.crossed:
        routes.add(asked.metadata.message_type)
        request, answer = over_the_wire(asked), over_the_wire(reply)
        assert request.metadata.message_type == asked.metadata.message_type
        assert answer.metadata.reply_to_message_id == asked.metadata.message_id
        masks = from_records(asked.content).masks
        for before, after in ((asked, request), (reply, answer)):
            assert size(before.content) == size(after.content)
            one, other = from_records(before.content, masks), from_records(after.content, masks)
            assert one.values == other.values
            for part in ("tensors", "masks"):
                mine, theirs = getattr(one, part), getattr(other, part)
                assert list(mine) == list(theirs)
                for name in mine:
                    assert mine[name].dtype == theirs[name].dtype
                    assert mine[name].shape == theirs[name].shape
                    assert mine[name].tobytes() == theirs[name].tobytes()
    assert routes == {
        "query.profile", "query.bn_statistics", "query.losses", "query.top_gradients", "train", "evaluate",
    }  # fmt: skip


def test_a_device_behind_flowers_serialisation_computes_the_same(
    whole: Any, go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedprune.federated.link import local_grid

    answer = local_grid._answer
    monkeypatch.setattr(
        local_grid,
        "_answer",
        lambda app, message, devices: over_the_wire(answer(app, over_the_wire(message), devices)),
    )
    through = go(tiny_world.experiment())
    for name, value in whole.states[1].params.items():
        np.testing.assert_array_equal(value, through.states[1].params[name])
    assert [row["bytes_up"] for row in through.rows] == [row["bytes_up"] for row in whole.rows]


def test_a_payload_comes_back_with_and_without_masks() -> None:
    mask = np.array([[True, False, False], [False, True, False]])
    weight = np.where(mask, np.float32(1.5), np.float32(0))
    payload = Payload({"n": 3, "text": "ü", "list": [1, None]}, {"w": weight, "b": np.ones(2, np.float32)}, {"w": mask})
    back = from_records(to_records(payload))
    assert back.values == payload.values
    for name in payload.tensors:
        np.testing.assert_array_equal(back.tensors[name], payload.tensors[name])
    np.testing.assert_array_equal(back.masks["w"], mask)
    assert from_records(to_records(Payload())) == Payload({}, {}, {})


def test_a_reply_under_the_servers_masks_carries_no_mask_and_is_smaller() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(4000) < 0.1
    weight = np.where(mask, rng.random(4000), 0).astype(np.float32)
    short, whole = to_records(Payload({}, {"w": weight}), {"w": mask}), to_records(Payload({}, {"w": weight}))
    assert size(short) < size(whole) < weight.nbytes
    np.testing.assert_array_equal(from_records(short, {"w": mask}).tensors["w"], weight)
    with pytest.raises(wire.WireError, match="another mask"):
        from_records(short, {"w": ~mask})
    with pytest.raises(wire.WireError, match="known mask"):
        from_records(short)


def test_numbers_are_numbers() -> None:
    assert number(Payload({"n": 0}), "n", least=0) == 0
    for wrong in (None, "1", True, [1], float("nan"), float("inf"), -1, 10**400, -(10**400)):
        with pytest.raises(ValueError, match="n is"):
            number(Payload({"n": wrong}), "n", least=0)
    with pytest.raises(ValueError, match="m is None"):
        number(Payload({"n": 1}), "m")


def test_push_and_pull_give_each_reply_once(whole: Any) -> None:
    from fedprune.federated.link.client import client_app

    asked = [pair[0] for pair in whole.crossed[:4]]
    with LocalGrid(client_app, 4) as grid:
        assert list(grid.get_node_ids()) == [1000, 1001, 1002, 1003]
        names = list(grid.push_messages([Message(m.content, m.metadata.dst_node_id, "query.profile") for m in asked]))
        assert len(set(names)) == 4
        replies = list(grid.pull_messages(names[:3]))
        assert [r.metadata.reply_to_message_id for r in replies] == names[:3]
        assert [from_records(r.content).values["device"] for r in replies] == [0, 1, 2]
        assert list(grid.pull_messages(names[:3])) == []
        assert len(list(grid.pull_messages(names))) == 1
