"""Local differential privacy: what leaves a device is clipped, noised on its own positions alone, or not said."""

import math
import re
import tomllib
from collections.abc import Callable
from typing import Any, NamedTuple

import fleets
import numpy as np
import pytest
import tiny_world
from flwr.app import Message

from fedprune import measures
from fedprune.experiment import ExperimentError, from_json, parse, to_json, to_toml
from fedprune.federated.link.bundle import ROUTE as SEVERAL
from fedprune.federated.link.bundle import Part, pack, unpack, why_failed
from fedprune.federated.link.records import from_records, to_records, values_of
from fedprune.federated.rounds.asking import RunStopped
from fedprune.methods.asking import asked_kinds
from fedprune.runs.private import allow, unnoised
from fedprune.runs.setting import prepare
from fedprune.wire.payload import Payload

ASKED = {"epsilon": 0.9, "clip_norm": 0.5, "delta": 1e-6}
SIGMA = 2 * 0.5 * math.sqrt(2 * math.log(1.25 / 1e-6)) / 0.9


def experiment(**changes: Any) -> Any:
    return tiny_world.experiment(
        **{"rounds": 2, "method": {"name": "magnitude", "density": 0.2}, "privacy": ASKED, **changes}
    )


class Crossed(NamedTuple):
    """One request to train and its reply."""

    device: int
    round: str
    request: Payload
    reply: Payload


def trained(run: Any) -> list[Crossed]:
    found = []
    for asked, reply in run.crossed:
        several = asked.metadata.message_type == SEVERAL
        route, group = asked.metadata.message_type, asked.metadata.group_id
        parts = unpack(asked.content) if several else [Part(route, group, asked.content)]
        answers = unpack(reply.content) if several else [Part(route, group, reply.content)]
        for part, answer in zip(parts, answers, strict=True):
            if part.route == "train":
                request = from_records(part.records)
                given = from_records(answer.records, request.masks)
                found.append(Crossed(asked.metadata.dst_node_id, part.round, request, given))
    return found


@pytest.fixture(scope="module")
def private(in_tmp: Callable[..., Any]) -> Any:
    return in_tmp(experiment())


@pytest.fixture(scope="module")
def plain(in_tmp: Callable[..., Any]) -> Any:
    return in_tmp(experiment(privacy={}))


def _difference(one: Crossed, other: Payload) -> dict[str, np.ndarray]:
    """reply − other on the positions that the device trains, of what the noise leaves unbounded."""
    return {
        name: (value - other.tensors[name])[one.request.masks.get(name, np.ones(value.shape, bool))]
        for name, value in one.reply.tensors.items()
        if value.dtype == np.float32 and not name.endswith("running_var")
    }


def test_the_noise_is_of_the_promised_size_everywhere_but_on_pruned_weights(private: Any) -> None:
    crossed = trained(private)
    assert len(crossed) == 8
    changes = [_difference(each, each.request) for each in crossed]
    for kind in ("weight", "running_mean"):
        values = np.concatenate([v for change in changes for name, v in change.items() if name.endswith(kind)])
        assert len(values) > 200
        assert abs(values.std() / SIGMA - 1) < (0.05 if kind == "weight" else 0.2), kind
        assert abs(values.mean()) < 5 * SIGMA / math.sqrt(len(values))
    for each in crossed:
        assert each.request.masks
        assert tiny_world.pruned_are_zero(each.reply.tensors, each.request.masks)
        assert all((v >= 0).all() for name, v in each.reply.tensors.items() if name.endswith("running_var"))
    assert tiny_world.pruned_are_zero(private.state.params, private.state.masks)
    assert not any(row.get("faults") for row in private.rows)


def test_what_is_under_the_noise_is_the_clipped_update(
    in_tmp: Callable[..., Any], plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "normal", lambda mean, deviation, shape: np.zeros(shape))
    run = in_tmp(experiment(rounds=1))
    honest = {each.device: each for each in trained(plain) if each.round == "1"}
    for each in trained(run):
        change, whole = _difference(each, each.request), _difference(honest[each.device], each.request)
        names = [name for name, value in each.reply.tensors.items() if value.dtype == np.float32]
        moved = [(each.reply.tensors[n].astype(float) - each.request.tensors[n]).reshape(-1) for n in names]
        length = float(np.linalg.norm(np.concatenate(moved)))
        assert length == pytest.approx(0.5, rel=1e-4)
        every = [(honest[each.device].reply.tensors[n].astype(float) - each.request.tensors[n]).ravel() for n in names]
        scale = 0.5 / float(np.linalg.norm(np.concatenate(every)))
        assert scale < 1
        for name, value in change.items():
            np.testing.assert_allclose(value, scale * whole[name], atol=1e-6)


def test_a_reply_says_nothing_else_of_the_data(private: Any, plain: Any) -> None:
    for each, open_ in zip(trained(private), trained(plain), strict=True):
        assert open_.reply.values.keys() - each.reply.values.keys() == {"loss", "correct", "seen"}
        for name, value in each.reply.tensors.items():
            if name.endswith("num_batches_tracked"):
                assert np.array_equal(value, open_.reply.tensors[name])
    said = [row for row in private.rows if row["phase"] in ("train", "evaluate")]
    assert len(said) >= 4
    assert all(row["accuracy"] is None and row["loss"] is None for row in said)


def test_tests_are_exact_where_the_experiment_says_so(in_tmp: Callable[..., Any]) -> None:
    run = in_tmp(experiment(rounds=1, privacy={**ASKED, "evaluate": True}))
    tests = [row for row in run.rows if row["phase"] == "evaluate"]
    assert all(0 <= row["accuracy"] <= 1 for row in tests)
    assert all(row["accuracy"] is None for row in run.rows if row["phase"] == "train")


def test_no_seed_decides_the_noise(in_tmp: Callable[..., Any], private: Any) -> None:
    # such as an experiment's own module may set
    np.random.seed(7)  # noqa: NPY002
    first = trained(in_tmp(experiment(rounds=1)))
    np.random.seed(7)  # noqa: NPY002
    again = trained(in_tmp(experiment(rounds=1)))
    for one, other in zip(first, again, strict=True):
        assert one.request.values == other.request.values
        assert all((v != 0).all() for v in _difference(one, other.reply).values())
    replies = [each.reply.tensors for each in trained(private) if each.round == "1"]
    name = next(name for name in replies[0] if name.endswith("weight") and replies[0][name].ndim == 2)
    noises = np.stack([tensors[name].reshape(-1) for tensors in replies])
    assert np.abs(np.corrcoef(noises) - np.eye(4)).max() < 0.7  # each device draws its own


def test_nobody_who_does_not_ask_is_changed(in_tmp: Callable[..., Any], plain: Any) -> None:
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()  # noqa: NPY002
    run = in_tmp(experiment(privacy={"epsilon": 0, "clip_norm": 3.0}))
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    fleets.assert_same(run.state, plain.state)
    for one, other in zip(trained(run), trained(plain), strict=True):
        assert one.reply.values.keys() == other.reply.values.keys()


@pytest.mark.parametrize("method", ["magnitude", "heterofl", "fjord"])
def test_tiers_and_what_is_nested_in_them_are_noised_too(in_tmp: Callable[..., Any], method: str) -> None:
    run = in_tmp(fleets.fleet_of(method, rounds=1, privacy=ASKED))
    fleets.assert_whole(run.state)
    assert not any(row.get("faults") for row in run.rows)
    heads = [] if method == "heterofl" else ["inner/0/", "inner/1/"]  # its devices train their own part alone
    for head in ["", *heads]:
        means = [
            value - each.request.tensors[name]
            for each in trained(run)
            for name, value in each.reply.tensors.items()
            if name.startswith(head) and name.endswith("running_mean")
        ]
        assert abs(np.concatenate(means).std() / SIGMA - 1) < 0.5


@pytest.mark.parametrize("rate", [1e-300, 1e30])
def test_training_that_changes_nothing_or_diverges_is_noise_alone(in_tmp: Callable[..., Any], rate: float) -> None:
    run = in_tmp(experiment(rounds=1, method={"name": "fedavg"}, training={"batch": 8, "learning_rate": rate}))
    assert not any(row.get("faults") for row in run.rows)
    for each in trained(run):
        values = np.concatenate(list(_difference(each, each.request).values()))
        assert abs(values.std() / SIGMA - 1) < 0.1


@pytest.mark.parametrize("route", [f"query.{kind}" for kind in measures.names() if not measures.find(kind).private])
@pytest.mark.parametrize("bundled", [False, True])
def test_a_device_refuses_what_would_answer_exactly(recorder: Any, route: str, bundled: bool) -> None:
    from fedprune.federated.link.client import client_app

    records = to_records(Payload({"experiment": to_json(experiment())}))
    content = pack([Part("query.profile", "1", records), Part(route, "1", records)]) if bundled else records
    with recorder(client_app, 4) as grid:
        kind = SEVERAL if bundled else route
        (reply,) = grid.send_and_receive([Message(content, 1000, kind, group_id="1")])
    assert reply.has_error()
    assert f"{route} would answer without noise, and privacy.epsilon is 0.9" in reply.error.reason


def test_a_device_refuses_to_send_votes_whatever_the_server_checked(
    go: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedprune.runs.private.allow", lambda *given: None)
    with pytest.raises(RunStopped, match=r"vote/\S+ would be sent without noise, and privacy.epsilon is 0.9"):
        go(experiment(method={"name": "lottery_jackpots", "density": 0.2}, retries=0))


def test_a_bundle_is_noised_as_its_parts_are(recorder: Any, private: Any) -> None:
    from fedprune.federated.link.client import client_app

    asked = [message.content for message, _ in private.crossed if message.metadata.message_type in ("train", SEVERAL)]
    records = next(
        part.records
        for content in asked
        for part in (
            unpack(content) if not content.array_records.get("fedprune.tensors") else [Part("train", "1", content)]
        )
        if part.route == "train"
    )
    broken = to_records(Payload({"experiment": "{}"}))
    with recorder(client_app, 4) as grid:
        parts = [Part("train", "1", records), Part("evaluate", "1", records)]
        (reply,) = grid.send_and_receive([Message(pack(parts), 1000, SEVERAL, group_id="1")])
        (bad,) = grid.send_and_receive([Message(pack([Part("train", "1", broken)]), 1000, SEVERAL, group_id="1")])
    assert bad.has_error()
    train, evaluate = unpack(reply.content)
    assert why_failed(train.records) is None
    request = from_records(records)
    given = from_records(train.records, request.masks)
    change = _difference(Crossed(1000, "1", request, given), request)
    assert np.concatenate(list(change.values())).std() > SIGMA / 2
    assert "loss" not in given.values
    said = values_of(evaluate.records)
    assert (said["loss"], said["correct"], said["seen"]) == (None, 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"privacy": {"epsilon": 1.0}}, "privacy.epsilon: 1: its noise is proved private below 1 alone; 0 is off"),
        ({"privacy": {"epsilon": -0.1}}, "privacy.epsilon: expected a number >= 0"),
        ({"privacy": {"delta": 1.0}}, "privacy.delta: expected a number < 1"),
        ({"privacy": {"clip_norm": 0.0}}, "privacy.clip_norm: expected a number > 0"),
        ({"privacy": {"eps": 0.5}}, "privacy.eps: unknown key"),
        ({"export": {"ranges": "devices"}}, "export.ranges: devices send ranges without noise; leave it out"),
        (
            {"fleet": {"a": {"devices": 4, "train_memory_bytes": "1 GiB"}}},
            "privacy.epsilon: no plan counts what its noise takes",
        ),
    ],
)
def test_what_cannot_be_private_is_said_in_one_line(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ExperimentError, match="^tiny: " + re.escape(expected)) as error:
        experiment(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            {**tiny_world.FEDTINY, "pool": 1},
            "method.name: devices send fedtiny gradients without noise; choose another",
        ),
        (
            {"name": "tiny_world:random_candidates"},
            "method: devices compare the candidates of tiny_world:random_candid",
        ),
        (
            {"name": "lottery_fl", "density": 0.2},
            "method.name: devices send lottery_fl accuracy without noise; choose another",
        ),
        (
            {"name": "lottery_jackpots", "density": 0.2},
            "method.name: what lottery_jackpots sends, such as vote/",
        ),
        ({"name": "magnitude", "density": 0.2}, None),
        ({"name": "kd_dp", "density": 0.2}, None),
        ({"name": "fedavg"}, None),
    ],
)
def test_methods_that_need_exact_answers_are_refused(method: dict[str, Any], expected: str | None) -> None:
    setting = prepare(experiment(method=method, privacy={}), "test")
    kinds = asked_kinds(setting.method, setting.zeros(), 3)
    others = unnoised(setting.method, setting.zeros())
    allow(experiment(method=method, privacy={}), kinds, others, "test")
    if expected is None:
        allow(experiment(method=method), kinds, others, "test")
    else:
        with pytest.raises(ExperimentError, match="^test: " + re.escape(expected)):
            allow(experiment(method=method), kinds, others, "test")


def test_what_nobody_asks_for_is_not_said() -> None:
    assert "privacy" not in to_json(tiny_world.experiment())
    loud = experiment()
    assert from_json(to_json(loud)) == loud
    assert parse(tomllib.loads(to_toml(loud)), "again") == loud
