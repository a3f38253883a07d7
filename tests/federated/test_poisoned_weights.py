"""Lies that no check of a single reply can see: options of [training] that bound what one device can do."""

import math
import tomllib
from collections.abc import Callable
from typing import Any

import fleets
import numpy as np
import pytest
import tiny_world
from flwr.app import Message
from lies import LIAR

from fedprune.experiment import Experiment, ExperimentError, from_json, parse, to_json, to_toml
from fedprune.federated.link.records import from_records, to_records
from fedprune.federated.rounds.model import State


def poison(asked: Message, reply: Message) -> Message:
    """The liar sends weights that are finite, of the right shape, and ruinous."""
    if asked.metadata.message_type != "train" or asked.metadata.dst_node_id != 1000 + LIAR:
        return reply
    sent = from_records(reply.content, from_records(asked.content).masks)
    tensors = {n: v * np.float32(1e6) if v.dtype == np.float32 else v for n, v in sent.tensors.items()}
    return Message(to_records(sent._replace(tensors=tensors)), reply_to=asked)


def furthest(state: State) -> float:
    return max(float(np.abs(value).max()) for name, value in state.params.items() if name.endswith("weight"))


@pytest.mark.parametrize("method", ["fedavg", "fjord"])
def test_robust_aggregates_hold_against_one_poisoned_device(in_tmp: Callable[..., Any], method: str) -> None:
    def experiment(**training: Any) -> Experiment:
        if method == "fedavg":
            settings = {"batch": 8, **training}
            return tiny_world.experiment(rounds=1, method={"name": "fedavg"}, training=settings)
        return fleets.fleet_of(method, rounds=1, training=training)

    honest = furthest(in_tmp(experiment()).state)
    assert furthest(in_tmp(experiment(), change=poison).state) > 1e3
    for aggregate in ("median", "trimmed"):
        run = in_tmp(experiment(aggregate=aggregate, trim=0.25), change=poison)
        if method == "fedavg":  # elsewhere positions of the smallest tier alone have too few owners to outvote a liar
            assert furthest(run.state) < 10 * honest
        assert not any(row.get("faults") for row in run.rows)
    run = in_tmp(experiment(clip_norm=0.5), change=poison)
    before = run.states[0].params
    if method == "fedavg":
        moved = [np.square(v.astype(float) - before[n]).sum() for n, v in run.state.params.items() if "1." not in n]
        assert math.sqrt(sum(moved)) < 1
    assert furthest(run.state) < 10 * honest


def test_the_mean_of_honest_devices_is_trimmed_of_nothing(whole: Any, in_tmp: Callable[..., Any]) -> None:
    settings = {"batch": 8, "grow_batch": 16, "aggregate": "trimmed", "trim": 0.1, "clip_norm": 1e9}
    fleets.assert_same(whole.state, in_tmp(tiny_world.experiment(training=settings)).state)


def test_what_nobody_asks_for_is_not_said() -> None:
    plain = tiny_world.experiment()
    asked = {"retries": 5, "deadline_s": 2.5}
    training = {"clip_norm": 2.0, "aggregate": "trimmed", "trim": 0.1}
    for key in (*asked, *training):
        assert key not in to_json(plain)
    loud = tiny_world.experiment(training=training, **asked)
    assert from_json(to_json(loud)) == loud
    assert parse(tomllib.loads(to_toml(loud)), "again") == loud
    for wrong in ({"aggregate": "mode"}, {"trim": 0.5}, {"clip_norm": -1.0}):
        with pytest.raises(ExperimentError, match=f"tiny: training.{next(iter(wrong))}: "):
            tiny_world.experiment(training=wrong)
