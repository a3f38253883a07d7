"""Requests that were made to do harm: a device refuses each with a reason, before it takes memory or computes."""

from collections.abc import Callable
from typing import Any

import fleets
import msgspec
import numpy as np
import pytest
import tiny_world
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedprune import models, wire
from fedprune.data.loading import federation, load_dataset
from fedprune.deployment.device import deploy
from fedprune.deployment.device.app import device_app
from fedprune.experiment import to_json
from fedprune.federated.link.bundle import ROUTE as SEVERAL
from fedprune.federated.link.bundle import Part, pack, unpack, why_failed
from fedprune.federated.link.client import ROUTES
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.link.requests import most_bytes
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.wire.payload import Payload
from fedprune.wire.reading import varint

SIDE = 2**29
SPARSE = b"\1\1\1w\x1a\1" + varint(SIDE) + b"\2\1\0"
"""Fourteen bytes: one tensor of 2²⁹ float32 values, all 0."""
FULL = b"\1\1\1w\0\1" + varint(2**31) + b"\1\1"
"""One mask of 2³¹ positions, all kept."""


def records(values: Any, **blobs: bytes) -> RecordDict:
    arrays = {
        name: Array(dtype="uint8", shape=(len(data),), stype="fedprune.wire", data=data) for name, data in blobs.items()
    }
    text = values if isinstance(values, bytes) else msgspec.json.encode(values)
    return RecordDict({"fedprune.tensors": ArrayRecord(arrays), "fedprune.values": ConfigRecord({"json": text})})


@pytest.fixture
def say(recorder: Any) -> Callable[[str, RecordDict], str]:
    """What device 0 says to a message: the reason of its refusal, or an empty text."""

    def ask(route: str, content: RecordDict) -> str:
        with recorder(device_app, 4) as grid:
            (reply,) = grid.send_and_receive([Message(content, 1000, route, group_id="1")])
        return str(reply.error.reason.splitlines()[-1]) if reply.has_error() else ""

    return ask


def asking(route: str) -> dict[str, Any]:
    """Values with which a phase asks, without a job."""
    graph = {"input": "x", "outputs": ["x"], "operations": [], "shapes": {"x": [1, 2]}}
    more = {
        "train": {"round": 1, "learning_rate": 0.1},
        "query.top_gradients": {"round": 1, "counts": {"w": 1}},
        "query.bn_statistics": {"candidates": {"0": {"w": 1}}},
        "query.losses": {"candidates": {"0": {"w": 1}}},
        "query.ranges": {"graph": graph},
        "query.accuracy": {"of": "train"},
        **{
            f"query.{kind}": {"layers": ["w"], "densities": []}
            for kind in ("flow", "gradients", "gram", "gram_of_noise", "input_moments")
        },
        "query.curvature": {"layers": ["w"], "temperature": 1.0, "along": False},
        "query.probes": {"layers": ["w"], "epsilon": 0.1, "probes": 1, "seed": 0, "most": 1},
        "query.gradient_squares": {"layers": ["w"], "most": 1},
        "query.distortion": {"layers": ["w"], "fractions": [0.5], "most": 1},
        "query.distortion_of_noise": {"layers": ["w"], "fractions": [0.5], "most": 1},
        "query.filter_moments": {"layers": ["w"], "weights": []},
        "query.scaled_gradients": {"layers": ["w"], "densities": []},
        "query.similarity": {"candidates": [["w"]], "last": "w", "most": 1},
        "query.deploy": {"sha256": "0" * 64, "run": "r", "tier": ""},
    }
    return {"experiment": to_json(tiny_world.experiment()), **more.get(route, {})}


@pytest.mark.parametrize("route", [*ROUTES, deploy.ROUTE])
@pytest.mark.parametrize(("kind", "claim"), [("tensors", SPARSE), ("masks", FULL)])
def test_a_few_bytes_that_claim_gigabytes_are_refused(
    say: Callable[[str, RecordDict], str], route: str, kind: str, claim: bytes
) -> None:
    assert len(claim) <= 16
    assert "WireError" in (said := say(route, records(asking(route), **{kind: claim})))
    assert "limit" in said


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "not a fedprune message"),
        (b'{"a":"' + b"x" * 2**22 + b'"}', "bytes of values, expected 4,194,304 at most"),
        (b"[1]", "its values are no table"),
        ({}, "experiment: not valid JSON"),
        ({"experiment": 3}, "experiment: expected a table"),
        ({"experiment": '{"data": {}}'}, "experiment: data.name: missing"),
        ({"experiment": "[" * 50_000}, "experiment: not valid JSON"),
    ],
)
def test_values_that_are_none_are_refused(say: Callable[[str, RecordDict], str], values: Any, reason: str) -> None:
    said = say("evaluate", records(values))
    assert said.startswith(("ValueError: ", "fedprune.experiment.ExperimentError: "))
    assert reason in said


def changed(path: str, value: Any) -> Callable[[Payload], Payload]:
    """A request with one of its values changed."""

    def change(request: Payload) -> Payload:
        values = msgspec.json.decode(msgspec.json.encode(dict(request.values)))
        *words, last = path.split(".")
        table = values
        for word in words:
            table = table.setdefault(word, {})
        table[last] = value
        return request._replace(values=values)

    return change


def with_tensor(name: str, of: Callable[[np.ndarray], np.ndarray]) -> Callable[[Payload], Payload]:
    return lambda r: r._replace(tensors={**r.tensors, name: of(r.tensors[name])}, masks=without(r.masks, name))


def without(table: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}


def masked(name: str, of: Callable[[Payload], np.ndarray]) -> Callable[[Payload], Payload]:
    """A request with another mask, and nothing but zeros under its masks."""

    def change(request: Payload) -> Payload:
        zeros = {key: np.zeros_like(value) for key, value in request.tensors.items()}
        return request._replace(tensors=zeros, masks={**request.masks, name: of(request)})

    return change


FOREIGN: dict[str, tuple[str, Callable[[Payload], Payload], str]] = {
    "no table of a job": ("train", changed("job", 3), "not a job"),
    "a job with a key too many": ("train", changed("job", {"speed": 3}), "not a job"),
    "a job's size of another type": ("train", changed("job", {"batch": "8"}), "not a job"),
    "a negative job": ("evaluate", changed("job", {"batch": -1}), "not a job: a number"),
    "an endless job": ("evaluate", changed("job", {"needs_bytes": 2**70}), "not a job"),
    "parts that are no list": ("train", changed("job", {"inner": {"a": 1}}), "not a job"),
    "lean training of another type": ("train", changed("job", {"lean": {"sparse": 2}}), "not a job"),
    "more than all examples": ("train", changed("job", {"share": 1.5}), "not a job: a number"),
    "a round that is none": ("train", changed("round", "one"), "not a request of train"),
    "an endless learning rate": ("train", changed("learning_rate", 10**400), "not a "),
    "a learning rate of another type": ("train", changed("learning_rate", [1]), "not a request of train"),
    "no counts": ("query.top_gradients", changed("counts", {}), "not a request of query.top_gradients"),
    "counts of another type": ("query.top_gradients", changed("counts", {"1.0.weight": 0.5}), "not a request of"),
    "counts of another layer": ("query.top_gradients", changed("counts", {"0.0.weight": 1}), "which have no mask"),
    "candidates of another type": ("query.losses", changed("candidates", [1]), "not a request of"),
    "a candidate beyond its layer": (
        "query.losses", changed("candidates", {"0": {"1.0.weight": 10**6}}), "which has not so many",
    ),
    "a candidate whose masks do not come": (
        "query.bn_statistics", changed("candidates", {"0": None}), "is missing, or no mask of its layer",
    ),
    "a tensor too few": ("train", lambda r: r._replace(tensors=without(r.tensors, "0.0.weight")), "these differ"),
    "a tensor too many": (
        "evaluate", lambda r: r._replace(tensors={**r.tensors, "more": np.ones(3)}), "these differ",
    ),
    "a statistic of nothing": (
        "query.losses",
        lambda r: r._replace(tensors={**r.tensors, "9/0.1.mean": np.ones(6, np.float32)}), "no statistic of",
    ),
    "a part that nobody asked for": (
        "train", lambda r: r._replace(tensors={**r.tensors, "inner/0/0.1.bias": r.tensors["0.1.bias"]}), "nothing of a",
    ),
    "doubles": ("train", with_tensor("1.0.weight", lambda a: a.astype(np.float64)), "the model's float32"),
    "a larger layer": ("train", with_tensor("5.bias", lambda a: np.zeros(4, np.float32)), "the model's float32(3,)"),
    "no channel at all": ("evaluate", with_tensor("0.1.bias", lambda a: a[:0]), "the model's float32(6,)"),
    "narrower layers that do not fit": ("evaluate", with_tensor("1.0.weight", lambda a: a[:4]), "another length"),
    "a mask of a statistic": ("train", masked("0.1.running_mean", lambda r: np.ones(6, bool)), "no parameter of"),
}  # fmt: skip
"""route, what is done to an honest request, and a part of the reason."""


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_phase_asks_is_refused(whole: Any, say: Callable[[str, RecordDict], str], name: str) -> None:
    route, change, reason = FOREIGN[name]
    honest = next(asked.content for asked, _ in whole.crossed if asked.metadata.message_type == route)
    request = from_records(honest)
    assert say(route, to_records(request)) == ""
    said = say(route, to_records(change(request)))
    assert reason in said
    assert said.startswith(("ValueError: ", "fedprune.wire.reading.WireError", "fedprune.models.ModelError"))


def test_a_part_of_a_bundle_that_no_device_knows_is_refused_alone(whole: Any, recorder: Any) -> None:
    asked = next(asked.content for asked, _ in whole.crossed if asked.metadata.message_type == "evaluate")
    content = pack([Part("query.nonsense", "1", asked), Part(SEVERAL, "1", asked), Part("evaluate", "1", asked)])
    with recorder(device_app, 4) as grid:
        (reply,) = grid.send_and_receive([Message(content, 1000, SEVERAL, group_id="1")])
    said = [why_failed(part.records) for part in unpack(reply.content)]
    assert [why and why.partition(" to ")[0] for why in said] == 2 * ["ValueError: a device has no answer"] + [None]


def test_many_empty_tensors_are_bounded_too() -> None:
    many = wire.encode({str(number): np.zeros(0, np.float32) for number in range(10_000)})
    with pytest.raises(wire.WireError, match="limit"):
        wire.decode(many, max_bytes=2**20)
    assert len(wire.decode(many, max_bytes=2**21)) == 10_000


@pytest.mark.parametrize("method", ["fedtiny", "fjord", "heterofl"])
def test_honest_requests_are_within_their_bounds(in_tmp: Callable[..., Any], method: str) -> None:
    """With room for what a run of other tiers would add, and not for much more."""
    run = in_tmp(fleets.fleet_of(method, rounds=1))
    assert not any(row.get("faults") for row in run.rows)
    made = run.folder.experiment()
    first = Device(0, made, load_dataset(made.data.name).schema, federation(made).devices[0])
    model = sum(slot.nbytes for slot in first.slots().values())
    seen = set()
    for asked, _ in run.crossed:
        route, request = asked.metadata.message_type, from_records(asked.content)
        parts = unpack(asked.content) if route == SEVERAL else [Part(route, "1", asked.content)]
        for part in parts:
            request = from_records(part.records)
            most = most_bytes(first, part.route, request.values, part.records)
            took = sum(each.nbytes for each in (*request.tensors.values(), *request.masks.values()))
            times = 3 + len(Job.of(request.values).inner) + len(request.values.get("candidates", ()))
            assert took <= most <= 2 * times * model
            seen.add(part.route)
    assert {"train", "evaluate"} <= seen


def test_what_a_net_holds_is_known_without_making_it() -> None:
    for name, shape in (("digits_cnn", (1, 8, 8)), ("dscnn", (1, 49, 10)), ("tiny_world:net", (1, 6, 6))):
        model = models.build(name, shape, 3)
        found = models.slots(name, shape, 3)
        assert {key: slot.nbytes for key, slot in found.items()} == {k: v.nbytes for k, v in model.state_dict().items()}
        assert {k for k, slot in found.items() if slot.trained} == {k for k, _ in model.named_parameters()}
