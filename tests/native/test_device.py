"""A device without torch: it answers every message of native training, in a process that cannot import it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, RecordDict

from fedprune.aggregation import pooled
from fedprune.experiment import for_devices, parse, to_json
from fedprune.federated.link import client
from fedprune.federated.link.bundle import Part
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, evaluate, measure, profile, train
from fedprune.native import library
from fedprune.pruning import masks
from fedprune.pruning.candidates import Pool
from fedprune.runs.setting import Setting, prepare
from fedprune.training import state_of
from fedprune.types import Ask
from fedprune.wire import WireError
from fedprune.wire.payload import REFUSED, Payload

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
EXPERIMENT = {
    "name": "digits",
    "model": "digits_cnn",
    "rounds": 3,
    "data": {"name": "digits", "partition": "iid", "devices": 2, "examples": 200, "public": 0.2},
    "method": {"name": "fedtiny", "density": 0.2, "pool": 2, "period": 1, "stop": 2},
    "training": {"engine": "native", "batch": 16},
}
DEVICE = """
import pickle, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("this device has no torch")
sys.meta_path.insert(0, NoTorch())
from flwr.app import Context, RecordDict
from fedprune.federated.link import client
from fedprune.federated.link.bundle import Part
asked = pickle.load(open(sys.argv[1], "rb"))
context = Context(0, 0, {"partition-id": 1}, RecordDict(), {})
replies = [client._reply(client.ROUTES[route], Part(route, "1", records), context) for route, records in asked]
pickle.dump(replies, open(sys.argv[2], "wb"))
"""


def phases(setting: Setting, state: State) -> list[Phase[Any]]:
    rng = np.random.default_rng(1)
    pool = Pool([{n: rng.random(mask.shape) < 0.5 for n, mask in state.masks.items()} for _ in range(2)], pooled)
    layers = dict.fromkeys(state.masks, 5)
    return [
        profile.profile(),
        train.train(setting.experiment, 1, setting.method),
        evaluate.evaluate(setting.task),
        measure.measure(Ask("top_gradients", layers), 1),
        measure.measure(Ask("bn_statistics", pool), 1),
        measure.measure(Ask("losses", pool), 1),
    ]


class Sent(NamedTuple):
    """Messages as a server sends them."""

    asked: list[Phase[Any]]
    state: State
    records: list[tuple[str, RecordDict]]


@pytest.fixture(scope="module")
def sent() -> Sent:
    """One of every phase that a device without torch answers."""
    setting = prepare(parse(EXPERIMENT, "test"), "test")
    params = state_of(setting.model())
    kept = {name: np.random.default_rng(0).random(params[name].shape) < 0.2 for name in setting.layers}
    state = State(1, masks.apply(params, kept), kept)
    asked, records = phases(setting, state), []
    for phase in asked:
        request = phase.request(state, Job())
        values = {**request.values, "experiment": to_json(for_devices(setting.experiment)), **setting.more()}
        records.append((phase.route, to_records(request._replace(values=values))))
    return Sent(asked, state, records)


def blobs(records: RecordDict) -> dict[str, bytes]:
    return {name: array.data for name, array in records.array_records["fedprune.tensors"].items()}


def context(*, simulated: bool) -> Context:
    more = {"simulated": True} if simulated else {}
    return Context(0, 0, {"partition-id": 1, **more}, RecordDict(), {})


def test_a_device_that_reads_one_tensor_at_a_time_says_the_same(sent: Sent) -> None:
    """As a simulated one, which decodes its message at once."""
    for route, records in sent.records:
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

    (records,) = (records for route, records in sent.records if route == train.ROUTE)
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


def test_every_message_of_native_training_is_answered_without_torch(sent: Sent, tmp_path: Path) -> None:
    (tmp_path / "asked").write_bytes(pickle.dumps(sent.records))
    command = [sys.executable, "-c", DEVICE, str(tmp_path / "asked"), str(tmp_path / "replies")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    replies = pickle.loads((tmp_path / "replies").read_bytes())
    for phase, (_, records), reply in zip(sent.asked, sent.records, replies, strict=True):
        request = from_records(records)
        payload = from_records(reply, request.masks)
        assert REFUSED not in payload.values
        phase.check(sent.state, Job(), payload)
