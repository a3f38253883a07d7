"""Runs on the digits that take seconds: over the local grid, without a folder and without the export at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedprune.experiment import Experiment, parse
from fedprune.federated.link.asking import Link
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.rounds import run as run_rounds
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import Setting, prepare


class Ran(NamedTuple):
    """What a run left."""

    setting: Setting
    states: Mapping[int, State]
    """Round, −1 the dense model before it began -> the state after it."""
    rows: list[dict[str, Any]]

    @property
    def state(self) -> State:
        """The last."""
        return self.states[max(self.states)]

    @property
    def accuracy(self) -> float:
        """Over all devices' test parts in the end."""
        found = [float(row["accuracy"]) for row in self.rows if row["phase"] == "evaluate"]
        return found[-1]


def experiment(method: Mapping[str, Any], *, rounds: int, seed: int = 0, **changes: Any) -> Experiment:
    """Four devices of the digits; ``changes`` are added to the tables of their names."""
    tables: dict[str, dict[str, Any]] = {
        "data": {"name": "digits", "devices": 4, "partition": "iid", "public": 0.1},
        "training": {"epochs": 1, "batch": 16, "learning_rate": 0.05},
        "pretraining": {"epochs": 0},
        "method": dict(method),
    }
    table: dict[str, Any] = {"name": "digits", "model": "central_runs:lenet", "rounds": rounds, "seed": seed, **tables}
    table |= {"prune_first": True, "prune_last": True}
    for key, value in changes.items():
        table[key] = {**tables[key], **value} if key in tables else value
    return parse(table, "digits")


def run(it: Experiment, state: State | None = None) -> Ran:
    """From its first model, or from ``state``, to its last round."""
    setting, rows = prepare(it, "test"), list[dict[str, Any]]()
    devices = len(setting.holds)
    state = state or pretrain(setting)
    states = {state.round: state}
    with LocalGrid(client_app, devices) as grid:
        for done in run_rounds(Link(grid, it, more=setting.more()), setting.tiers(), devices, state):
            if done.row:
                rows.append(done.row)
            if "train" not in done.state.done:
                states.setdefault(done.state.round, done.state)
    return Ran(setting, states, rows)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether tensors are the same to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
