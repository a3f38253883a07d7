"""What goes wrong on devices: one that raises, one that lies, one whose process dies."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tiny_world
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from lies import LIAR, lie, raw, with_tensor, with_values, without_tensor, without_value

from fedprune import wire
from fedprune.federated.link.records import from_records
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.phases import profile
from fedprune.runs.folder import RunFolder
from fedprune.wire.payload import Payload, one_line


def first_to(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        copy = array.copy()
        copy.flat[0] = value
        return copy

    return change


def at_kept(payload: Payload) -> Payload:
    """A grow reply that names as many positions, all over the layer."""
    (name,) = [key.removeprefix("at/") for key in payload.tensors if key.startswith("at/")]
    everywhere = np.ones_like(payload.tensors[f"at/{name}"])
    return payload._replace(tensors={f"at/{name}": everywhere, f"grad/{name}": np.ones(everywhere.size, np.float32)})


def first_gradient_nan(payload: Payload) -> Payload:
    (name,) = [key for key in payload.tensors if key.startswith("grad/")]
    return with_tensor(name, first_to(np.nan))(payload)


LIES: Mapping[str, tuple[str, Callable[[Payload], Any], str]] = {
    "NaN weight": ("train", with_tensor("1.0.weight", first_to(np.nan)), "1.0.weight holds a value that is not finite"),
    "infinite statistic": ("train", with_tensor("1.1.running_var", first_to(np.inf)), "1.1.running_var"),
    "wrong shape": ("train", with_tensor("5.weight", lambda a: a[:1]), r"5\.weight is float32\(1, 10\), expected"),
    "wrong type": ("train", with_tensor("5.weight", lambda a: a.astype(np.float64)), "is float64"),
    "missing tensor": ("train", without_tensor("5.bias"), "these differ: .'5.bias'"),
    "more tensors": ("train", lambda p: p._replace(tensors={**p.tensors, "x": np.ones(3)}), "these differ: .'x'"),
    "no tensors": ("train", lambda p: Payload(p.values), "these differ"),
    "negative count": ("train", with_values(examples=-5), "examples is -5"),
    "no count": ("train", without_value("examples"), "examples is None"),
    "zero count": ("train", with_values(examples=0), "examples is 0"),
    "count that is true": ("train", with_values(examples=True), "examples is True"),
    "count beyond all floats": ("train", with_values(examples=10**400), "examples is 1000"),
    "loss that is a text": ("train", with_values(loss="low"), "loss is 'low'"),
    "hits that are a list": ("train", with_values(correct=[1]), "correct is"),
    "device that is a name": (
        "train",
        with_values(device="two"),
        "the node of device 2 now says .* device two",
    ),
    "device that is no name": (
        "train",
        with_values(device="a/b\n"),
        r"device is 'a/b\\n', expected a name of",
    ),
    "device that is a list": ("train", with_values(device=[2]), r"device is \[2\]"),
    "garbage": ("train", raw(tensors=b"\xff\x00garbage"), "unknown version 255"),
    "cut short": ("train", lambda p: raw(tensors=wire.encode(p.tensors)[:-7])(p), "truncated|malformed|bytes"),
    "another version of the wire": (
        "train",
        lambda p: raw(tensors=b"\x09" + wire.encode(p.tensors)[1:])(p),
        "version 9",
    ),
    "empty records": ("train", lambda p: RecordDict(), "not a fedprune message"),
    "values that are a list": (
        "train",
        lambda p: RecordDict({"fedprune.tensors": ArrayRecord(), "fedprune.values": ConfigRecord({"json": b"[1]"})}),
        "values are no table",
    ),
    "values that are no JSON": (
        "train",
        lambda p: RecordDict({"fedprune.tensors": ArrayRecord(), "fedprune.values": ConfigRecord({"json": b"{"})}),
        "not a fedprune message",
    ),
    "an error": (
        "train",
        lambda p: Error(0, "Traceback:\n  x\nValueError: out of memory\n"),
        "^ValueError: out of memory$",
    ),
    "an error without a word": ("train", lambda p: Error(0), "without a reason"),
    "more hits than examples": ("evaluate", with_values(correct=10**6), "more hits than examples"),
    "no hits": ("evaluate", without_value("correct"), "correct is None"),
    "loss of a table": ("evaluate", with_values(loss={"a": 1}), "loss is"),
    "losses missing": ("query.losses", without_value("losses"), "expected 3 losses"),
    "too few losses": ("query.losses", with_values(losses=[1.0]), "expected 3 losses"),
    "a loss that is a text": ("query.losses", with_values(losses=["a", 1, 2]), "loss is 'a'"),
    "a loss beyond all floats": ("query.losses", with_values(losses=[10**400, 1, 2]), "loss is 1000"),
    "no statistics": ("query.bn_statistics", lambda p: Payload(p.values), "these differ"),
    "statistics of one layer missing": ("query.bn_statistics", without_tensor("1/1.1.var"), "1/1.1.var"),
    "statistics of an unknown layer": (
        "query.bn_statistics",
        lambda p: p._replace(tensors={**p.tensors, "0/9.mean": np.ones(3, np.float32)}),
        "0/9.mean",
    ),
    "negative variance": ("query.bn_statistics", with_tensor("2/0.1.var", first_to(-1.0)), "2/0.1.var"),
    "NaN mean": ("query.bn_statistics", with_tensor("0/0.1.mean", first_to(np.nan)), "0/0.1.mean"),
    "gradients of kept weights": ("query.top_gradients", at_kept, "at most .* gradients, all of pruned"),
    "NaN gradient": ("query.top_gradients", first_gradient_nan, "finite gradients"),
    "no gradients": ("query.top_gradients", lambda p: Payload(p.values), "expected positions"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_bad_reply_is_dropped_with_a_reason_and_the_others_are_used(go: Callable[..., Any], name: str) -> None:
    route, change, reason = LIES[name]
    run = go(tiny_world.experiment(rounds=1), change=lie(route, change))
    assert [(row["round"], row["phase"]) for row in run.rows][-1] == (1, "evaluate")
    for row in run.rows:
        if row["phase"] == route.rpartition(".")[2]:
            assert list(row["faults"]) == [str(LIAR)]
            assert re.search(reason, row["faults"][str(LIAR)]), row["faults"]
            assert "\n" not in row["faults"][str(LIAR)]
            assert row["devices"] == 3
        else:
            assert row["faults"] == {}
            assert row["devices"] == 4
    assert all(np.isfinite(value).all() for value in run.state.params.values())
    assert tiny_world.pruned_are_zero(run.state.params, run.state.masks)


def test_the_aggregate_is_that_over_the_others(go: Callable[..., Any]) -> None:
    run = go(tiny_world.experiment(rounds=1), change=lie("train", with_values(examples=-1)))
    replies = {}
    for asked, reply in run.crossed:
        if asked.metadata.message_type == "train":
            request = from_records(asked.content)
            replies[asked.metadata.dst_node_id - 1000] = from_records(reply.content, request.masks)
    good = [reply for device, reply in replies.items() if device != LIAR]
    total = sum(reply.values["examples"] for reply in good)
    for name in ("0.0.weight", "1.0.weight", "5.bias", "1.1.running_mean"):
        want = sum(r.values["examples"] * r.tensors[name].astype(np.float64) for r in good) / total
        after = next(
            from_records(asked.content).tensors[name]
            for asked, _ in run.crossed
            if asked.metadata.message_type == "query.top_gradients"
        )
        np.testing.assert_allclose(after, want, rtol=1e-6, atol=1e-7)


def test_a_device_that_raises_does_not_stop_the_round(go: Callable[..., Any]) -> None:
    run = go(tiny_world.experiment(rounds=2), make_app=tiny_world.raising_app)
    for row in run.rows:
        if row["phase"] == "train":
            assert row["faults"] == {"3": "MemoryError: device 3 has no memory left [for/this]"}
            assert row["devices"] == 3
        else:
            assert row["faults"] == {}
    assert [state.round for state in run.states] == [0, 1, 2]


def test_a_worker_that_dies_is_one_devices_fault_and_later_rounds_have_new_workers(
    whole: Any, go: Callable[..., Any]
) -> None:
    run = go(tiny_world.experiment(), make_app=tiny_world.dying_app, workers=2)
    trained = [row for row in run.rows if row["phase"] == "train"]
    assert [row["faults"] for row in trained] == [{}, {"1": "the worker process of this device died"}, {}]
    assert [row["devices"] for row in trained] == [4, 3, 4]
    assert [state.round for state in run.states] == [0, 1, 2, 3]
    for name, value in whole.states[1].params.items():  # nothing differs before
        np.testing.assert_array_equal(value, run.states[1].params[name])


def test_too_few_good_replies_stop_the_run_saved_and_it_can_go_on(whole: Any, go: Callable[..., Any]) -> None:
    def fail(asked: Message, reply: Message) -> Message:
        late = asked.metadata.message_type == "query.top_gradients" and asked.metadata.group_id == "2"
        if late and asked.metadata.dst_node_id != 1000:
            return Message(Error(0, "RuntimeError: no power"), reply_to=asked)
        return reply

    with pytest.raises(RunStopped, match=r"round 2, query.top_gradients: 1 of 4 devices .* device 1: .*no power"):
        go(tiny_world.experiment(), change=fail)
    folder = RunFolder(go.args[0])  # type: ignore[attr-defined]
    assert folder.state().round == 1
    again = go(tiny_world.experiment(), resume=True)
    for name, value in whole.state.params.items():
        np.testing.assert_array_equal(value, again.state.params[name])
    assert [(r["round"], r["phase"]) for r in again.rows] == [(r["round"], r["phase"]) for r in whole.rows]


def test_how_many_replies_are_enough_is_the_experiments(go: Callable[..., Any]) -> None:
    with pytest.raises(RunStopped, match="3 of 4"):
        go(tiny_world.experiment(least_replies=1.0), make_app=tiny_world.raising_app)


def test_devices_that_do_not_answer_leave_a_fault(
    go: Callable[..., Any], recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = recorder.send_and_receive

    def lossy(self: Any, messages: Any, *, timeout: float | None = None) -> Any:
        for reply in send(self, messages, timeout=timeout):
            if reply.metadata.message_type != "train" or reply.metadata.src_node_id != 1001:
                yield reply
                yield reply  # and a link may deliver twice

    monkeypatch.setattr(recorder, "send_and_receive", lossy)
    run = go(tiny_world.experiment(rounds=1))
    assert [row["faults"] for row in run.rows if row["phase"] == "train"] == [{"1": "no reply"}]
    assert all(row["devices"] <= 4 for row in run.rows)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_values(version="0.0.1"), r"device 2 is missing\); the device runs fedprune 0.0.1"),
        (with_values(device=1), "device 2 is missing"),
        (
            with_values(device="two"),
            r"device 2 is missing\); goes by a name, but devices have numbers",
        ),
        (with_values(device="x" * 201), "device is 'x+"),
        (with_values(train="many"), "train is 'many'"),
        (
            with_values(train=2**31 - 1),
            r"device 2 is missing\); says that it has 2147483647 train examples; the experiment gives device 2 \d+$",
        ),
    ],
)
def test_the_run_begins_only_with_its_own_devices(
    go: Callable[..., Any], change: Callable[[Payload], Payload], reason: str
) -> None:
    with pytest.raises(RunStopped, match=reason):
        go(tiny_world.experiment(least_replies=1.0), change=lie(profile.ROUTE, change))
    run = go(tiny_world.experiment(rounds=1), change=lie(profile.ROUTE, change))  # three of four are enough
    assert {row["devices"] for row in run.rows} == {3}
    for row in run.rows:
        assert row["absent"] == {"2": "not connected"}
        (said,) = row["strangers"].values()
        assert re.search(reason.rpartition("; ")[2], said) or "which another node is" in said


def test_the_last_line_of_an_error_is_its_reason() -> None:
    assert one_line("Traceback:\n  File\nKeyError: 'x'\n\n") == "KeyError: 'x'"
    assert len(one_line("y" * 5000)) == 300
    assert one_line("\x1b[2Jgone\x00") == "?[2Jgone?"
    assert one_line(None) == one_line(" \n") == "an error without a reason"
