"""Replies that were made to do harm: each is refused with one clear reason, and nothing of it enters the state."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import fleets
import msgspec
import numpy as np
import pytest
import tiny_world
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from lies import LIAR, lie, raw, with_tensor, with_values, without_value

from fedprune import __version__, wire
from fedprune.federated.link import checks
from fedprune.federated.link.checks import Asked, checked
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, stamp, to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.phases.train import train
from fedprune.types import Method, Model
from fedprune.wire.payload import Payload


def outside_the_plan(payload: Payload) -> Payload:
    """Every pruned weight of a layer set, sent without the server's mask."""
    return with_tensor("1.0.weight", lambda a: np.where(a == 0, np.float32(9), a))(payload)


def own_masks(payload: Payload) -> Payload:
    """The device's own idea of what is kept."""
    return payload._replace(masks={"1.0.weight": np.ones(payload.tensors["1.0.weight"].shape, bool)})


def bomb(payload: Payload) -> RecordDict:
    """A few bytes that stand for a gigabyte of zeros."""
    shape = b"".join([b"\x01", b"\x80\x80\x80\x80\x01"])
    tensor = b"\x01w" + bytes([11 | 1 << 4]) + shape + b"\x02" + b"\x01\x00"
    return raw(tensors=b"\x01\x01" + tensor)(payload)


def nested(payload: Payload) -> RecordDict:
    """JSON deeper than any parser's stack."""
    text = b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}"
    return RecordDict({"fedprune.tensors": ArrayRecord(), "fedprune.values": ConfigRecord({"json": text})})


def large(payload: Payload) -> Payload:
    return with_values(note="x" * 10**6)(payload)


def named_at_length(payload: Payload) -> Payload:
    return payload._replace(tensors={**payload.tensors, "\x1b[2J\n" + "x" * 5000: np.ones(1, np.float32)})


LIES: Mapping[str, tuple[str, Callable[[Payload], Any], str]] = {
    "a shape that would broadcast": ("train", with_tensor("5.bias", lambda a: a[:1]), r"5\.bias is float32\(1,\)"),
    "a scalar for a matrix": ("train", with_tensor("5.weight", lambda a: np.float32(1).reshape(())), "5.weight is"),
    "an axis more": ("train", with_tensor("5.bias", lambda a: a[None]), r"5\.bias is float32\(1, \d+\)"),
    "flags for numbers": ("train", with_tensor("5.bias", lambda a: a > 0), "5.bias is bool"),
    "doubles": ("train", with_tensor("5.bias", lambda a: a.astype(np.float64)), "5.bias is float64"),
    "whole numbers": ("train", with_tensor("5.bias", lambda a: a.astype(np.int32)), "5.bias is int32"),
    "−∞": ("train", with_tensor("5.bias", lambda a: np.full_like(a, -np.inf)), "5.bias holds a value that is not"),
    "weights outside the plan": ("train", outside_the_plan, "1.0.weight holds weights outside the device's part"),
    "masks of its own": ("train", own_masks, "expected no masks of the device's own"),
    "a count of half examples": ("train", with_values(examples=3.5), "examples is 3.5, expected a whole number"),
    "a count as a text": ("train", with_values(examples="7"), "examples is '7'"),
    "more examples than it holds": ("train", with_values(examples=10**6), r"examples is 1000000, but .* said .* \d+ t"),
    "more seen than there are passes": ("train", with_values(seen=10**9), "seen is 1000000000, expected a whole"),
    "more hits than seen": ("train", with_values(correct=10**9), "correct is 1000000000, expected a whole"),
    "negative hits": ("train", with_values(correct=-1), "correct is -1"),
    "another version": ("train", with_values(of="0.0.0 00000000"), "the device runs fedprune 0.0.0, the server"),
    "no stamp": ("train", without_value("of"), "the device runs fedprune None, the server"),
    "a stamp that is a list": ("train", with_values(of=[1]), "the device runs fedprune None"),
    "an answer to something else": (
        "train",
        with_values(of=f"{__version__} 00000000"),
        "a reply to another request, such as one of an earlier round",
    ),
    "another device's name": ("train", with_values(device=3), "the node of device 2 now says that it is device 3"),
    "a refusal of what needs nothing": ("train", with_values(refused=5), "refused what needs no memory"),
    "memory beyond all numbers": ("train", with_values(memory_bytes=2**80), "memory_bytes is"),
    "negative memory": ("train", with_values(memory_bytes=-1), "memory_bytes is -1"),
    "a small message that unfolds": ("train", bomb, "limit"),
    "values nested without end": ("train", nested, "not a fedprune message"),
    "a large message": ("train", large, r"a reply of [\d,]+ bytes, expected [\d,]+ at most"),
    "a name that clears the screen": ("train", named_at_length, "these differ"),
    "tensors with a test's counts": (
        "evaluate",
        lambda p: p._replace(tensors={"5.bias": np.ones(3, np.float32)}),
        "expected counts alone",
    ),
    "more tested than it holds": ("evaluate", with_values(seen=10**6), r"seen is 1000000, but the device said .* test"),
    "half a hit": ("evaluate", with_values(correct=0.5), "correct is 0.5, expected a whole number"),
    "statistics of more than it holds": (
        "query.bn_statistics",
        with_values(examples=10**6),
        "but the device said that it has .* development",
    ),
    "losses of more than it holds": ("query.losses", with_values(examples=10**6), "but the device said"),
    "gradients of layers not asked for": (
        "query.top_gradients",
        lambda p: p._replace(tensors={**p.tensors, "grad/5.weight": np.ones(3, np.float32)}),
        "of the layers asked for, got .'grad/5.weight'",
    ),
    "gradients of more than it holds": ("query.top_gradients", with_values(examples=10**6), "but the device said"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_hostile_reply_is_one_fault_and_leaves_no_trace(go: Callable[..., Any], name: str) -> None:
    route, change, reason = LIES[name]
    run = go(tiny_world.experiment(rounds=1), change=lie(route, change))
    for row in run.rows:
        told = row["phase"] == route.rpartition(".")[2]
        assert list(row["faults"]) == [str(LIAR)] * told
        assert row["devices"] == 4 - told
        for said in row["faults"].values():
            assert re.search(reason, said), said
            assert said.isprintable()
            assert len(said) <= 300
            assert "damaged reply:" not in said  # a check that knows what it refuses, not one that stumbled
    silent = go(tiny_world.experiment(rounds=1), change=lie(route, lambda payload: RecordDict()))
    fleets.assert_same(run.state, silent.state)


def test_replies_of_earlier_rounds_are_refused(whole: Any, go: Callable[..., Any]) -> None:
    """Once as they were sent, and once in the envelope of this round."""
    first: dict[str, Message] = {}
    for renew in (False, True):
        first.clear()

        def replay(asked: Message, reply: Message, renew: bool = renew) -> Message:
            route = asked.metadata.message_type
            if asked.metadata.dst_node_id != 1000 + LIAR or route not in ("train", "evaluate", "query.top_gradients"):
                return reply
            old = first.setdefault(route, reply)
            return Message(old.content, reply_to=asked) if renew else old

        run = go(tiny_world.experiment(rounds=2), change=replay)
        said = {(row["round"], row["phase"]): row["faults"] for row in run.rows}
        assert not any(said[1, phase] for phase in ("train", "top_gradients"))
        for phase in ("train", "top_gradients", "evaluate"):
            (reason,) = said[2, phase].values()
            assert re.search("a reply to another request" if renew else "a reply to round '[01]', .* round 2", reason)


def test_every_honest_reply_passes_and_carries_little_more(whole: Any) -> None:
    for asked, reply in whole.crossed:
        payload = from_records(reply.content, from_records(asked.content).masks)
        assert payload.values["of"] == stamp(asked.content, asked.metadata.message_type, asked.metadata.group_id)
        assert len(msgspec.json.encode({"of": payload.values["of"]})) < 32


# bytes that nobody meant


@pytest.fixture(scope="module")
def judged(whole: Any) -> tuple[Asked, Message]:
    """A request of phase train, and the honest reply."""
    state, phase = whole.states[0], train(tiny_world.experiment(), 1, Method(Model))
    asked, reply = next(pair for pair in whole.crossed if pair[0].metadata.message_type == "train")
    request = phase.request(state, Job())
    found = checks.asked(phase, state, Job(), 1, request, asked.content)
    checked(reply.content, found)
    return found, reply


def blobs(reply: Message) -> tuple[bytes, bytes]:
    """(tensors, values) of a reply as they travel."""
    values = reply.content.config_records["fedprune.values"]["json"]
    assert isinstance(values, bytes)
    return reply.content.array_records["fedprune.tensors"]["tensors"].data, values


def answer(reply: Message, tensors: bytes, values: bytes) -> Message:
    """A reply of these bytes."""
    array = Array(dtype="uint8", shape=(len(tensors),), stype="fedprune.wire", data=tensors)
    content = RecordDict(
        {"fedprune.tensors": ArrayRecord({"tensors": array}), "fedprune.values": ConfigRecord({"json": values})}
    )
    made = Message(content, dst_node_id=1, message_type="train", group_id="1")
    made.metadata.__dict__["_src_node_id"] = reply.metadata.src_node_id
    return made


def assert_harmless(asked: Asked, message: Message) -> None:
    """The reply is refused with a reason, or is one that a device could honestly send."""
    try:
        _, payload = checked(message.content, asked, 0, {"train": 10**6})
    except ValueError:
        return
    held = asked.state.params
    assert payload.tensors.keys() == held.keys()
    for name, value in payload.tensors.items():
        assert (value.dtype, value.shape) == (held[name].dtype, held[name].shape)
        assert np.isfinite(value).all()
        assert not np.any(value[~asked.state.masks[name]]) if name in asked.state.masks else True
    assert 1 <= payload.values["examples"] <= 10**6


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_bytes_that_were_changed_never_get_in(judged: tuple[Asked, Message], data: st.DataObject) -> None:
    asked, reply = judged
    tensors, values = blobs(reply)
    damaged = bytearray(tensors)
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "noise", "head"]))
    at = data.draw(st.integers(0, len(damaged) - 1))
    if kind == "flip":
        damaged[at] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "insert":
        damaged[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    elif kind == "noise":
        damaged = bytearray(data.draw(st.binary(max_size=300)))
    else:  # a name, a type, a shape or a length: where the harm is
        damaged[at % 40] = data.draw(st.integers(0, 255))
    assert_harmless(asked, answer(reply, bytes(damaged), values))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(["examples", "loss", "correct", "seen", "device", "of", "refused", "memory_bytes", "turns", "x"])


@settings(max_examples=300, deadline=None)
@given(wrong=st.dictionaries(KEYS, ANY, max_size=3), noise=st.none() | st.binary(max_size=60))
def test_values_of_any_kind_never_get_in(
    judged: tuple[Asked, Message], wrong: dict[str, Any], noise: bytes | None
) -> None:
    asked, reply = judged
    tensors, values = blobs(reply)
    changed = msgspec.json.encode({**msgspec.json.decode(values), **wrong})
    assert_harmless(asked, answer(reply, tensors, noise if noise is not None else changed))


@settings(max_examples=50, deadline=None)
@given(name=st.sampled_from(["1.0.weight", "5.weight", "5.bias", "1.1.running_var"]), value=st.floats(width=32))
def test_one_number_that_is_none_is_enough(judged: tuple[Asked, Message], name: str, value: float) -> None:
    asked, reply = judged
    sent = from_records(reply.content, asked.request.masks).tensors
    poisoned = {key: array.copy() for key, array in sent.items()}
    poisoned[name].flat[-1] = value
    message = answer(reply, wire.encode(poisoned), blobs(reply)[1])
    assert_harmless(asked, message)
    if not math.isfinite(value):
        with pytest.raises(ValueError, match=re.escape(name)):
            checked(message.content, asked)


def test_a_device_refuses_to_be_asked_with_nonsense() -> None:
    with LocalGrid(client_app, 1) as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1000, "query.profile", group_id="0")])
        assert reply.has_error()
        assert "not a fedprune message" in reply.error.reason
        (reply,) = grid.send_and_receive([Message(to_records(Payload()), 1000, "query.profile", group_id="0")])
        assert reply.has_error()
