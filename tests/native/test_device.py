"""A device without torch: it answers every message of native training, in a process that cannot import it."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_messages import EXPERIMENT, Asked, phases, pruned, sent

from fedprune.experiment import parse
from fedprune.federated.link.records import from_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import evaluate, measure, train
from fedprune.graph import width
from fedprune.graph.coupling import coupled_channels
from fedprune.native import library
from fedprune.pruning.parts import statistics
from fedprune.runs.setting import Setting, prepare
from fedprune.types import Ask, Part
from fedprune.wire.payload import REFUSED

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
DEVICE = """
import pickle, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, NoTorch())
from flwr.app import Context, RecordDict
from fedprune.federated.link import client
from fedprune.federated.link.bundle import Part
asked = pickle.load(open(sys.argv[1], "rb"))
context = Context(0, 0, {"partition-id": 1}, RecordDict(), {})
def reply(route, records):
    try:
        return client._reply(client.ROUTES[route], Part(route, "1", records), context)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
pickle.dump([reply(*each) for each in asked], open(sys.argv[2], "wb"))
"""


def parts_of(setting: Setting, state: State) -> list[tuple[State, Job]]:
    """(a state with parts, a job on one): single weights with a smaller one along, and whole channels."""
    own, rng = statistics(state.params), np.random.default_rng(2)
    few = {name: mask & (rng.random(mask.shape) < 0.5) for name, mask in state.masks.items()}
    groups = coupled_channels(setting.model(), torch.zeros(2, *setting.schema.input_shape))
    shapes = {name: value.shape for name, value in state.params.items()}
    half = width.width_masks(groups, shapes, width.first_channels(groups, 0.5))
    nested = replace(state, parts={"large": Part(own, state.masks), "small": Part(own, few)})
    narrow = replace(state, masks={}, parts={"narrow": Part(own, half)})
    return [(nested, Job("large", inner=("small",), inner_steps=1)), (narrow, Job("narrow", structured=True))]


def answered(setting: Setting, asked: Sequence[Asked], folder: Path) -> list[tuple[Any, Any]]:
    """(request, reply, or what was raised) of each phase, by a device that cannot import torch."""
    messages = sent(setting, asked)
    (folder / "asked").write_bytes(pickle.dumps(messages))
    command = [sys.executable, "-c", DEVICE, str(folder / "asked"), str(folder / "replies")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    replies = pickle.loads((folder / "replies").read_bytes())
    return [(records, reply) for (_, records), reply in zip(messages, replies, strict=True)]


@pytest.fixture(scope="module")
def run() -> tuple[Setting, State]:
    return pruned()


def test_every_message_of_native_training_is_answered_without_torch(run: tuple[Setting, State], tmp_path: Path) -> None:
    setting, whole = run
    asked: list[Asked] = [(phase, whole, Job()) for phase in phases(setting, whole)]
    for state, job in parts_of(setting, whole):
        asked += [
            (phase, state, job)
            for phase in (train.train(setting.experiment, 1, setting.method), evaluate.evaluate(setting.task))
        ]
    for (phase, state, job), (records, reply) in zip(asked, answered(setting, asked, tmp_path), strict=True):
        assert not isinstance(reply, str), f"{phase.route}: {reply}"
        request = from_records(records)
        payload = from_records(reply, request.masks)
        assert REFUSED not in payload.values
        phase.check(state, job, payload)
        for form in payload.values.get("forms", {}).values():
            assert form["agree"] == payload.values["examples"] > 0, form["why"]


def test_what_needs_torch_is_refused_in_a_line_that_names_what_to_install(
    run: tuple[Setting, State], tmp_path: Path
) -> None:
    setting, state = run
    gradients = measure.measure(Ask("gradients", tuple(setting.layers)), 1)
    other = prepare(parse({**EXPERIMENT, "training": {"engine": "torch"}}, "test"), "test")
    training = train.train(setting.experiment, 3, setting.method)
    found = [
        *answered(setting, [(gradients, state, Job())], tmp_path),
        *answered(other, [(training, state, Job())], tmp_path),
    ]
    for _, reply in found:
        assert (
            reply
            == "RuntimeError: this needs torch, which the device has not: there, pip install 'fedprune[device-torch]'"
        )
