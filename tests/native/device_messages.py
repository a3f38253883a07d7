"""Messages to a device of a small FedTiny run, as a server sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import RecordDict

from fedprune.aggregation import pooled
from fedprune.experiment import for_devices, parse, to_json
from fedprune.export import litert
from fedprune.federated.link.records import to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase, check, evaluate, measure, profile, train
from fedprune.measures.distortion import Curves
from fedprune.measures.probes import Probes
from fedprune.pruning import masks
from fedprune.pruning.candidates import Pool
from fedprune.runs import shipping
from fedprune.runs.setting import Setting, prepare
from fedprune.training import state_of
from fedprune.types import Ask

EXPERIMENT = {
    "name": "digits",
    "model": "digits_cnn",
    "rounds": 3,
    "data": {"name": "digits", "partition": "iid", "devices": 2, "examples": 200, "public": 0.2},
    "method": {"name": "fedtiny", "density": 0.2, "pool": 2, "period": 1, "stop": 2},
    "training": {"engine": "native", "batch": 16},
}
Asked = tuple[Phase[Any], State, Job]


def pruned() -> tuple[Setting, State]:
    """The run, and its state with a fifth of the weights."""
    setting = prepare(parse(EXPERIMENT, "test"), "test")
    params = state_of(setting.model())
    kept = {name: np.random.default_rng(0).random(params[name].shape) < 0.2 for name in setting.layers}
    return setting, State(1, masks.apply(params, kept), kept)


def phases(setting: Setting, state: State) -> list[Phase[Any]]:
    rng = np.random.default_rng(1)
    pool = Pool([{n: rng.random(mask.shape) < 0.5 for n, mask in state.masks.items()} for _ in range(2)], pooled)
    layers = dict.fromkeys(state.masks, 5)
    graph = shipping.shipped(setting, state)
    return [
        profile.profile(),
        train.train(setting.experiment, 1, setting.method),
        evaluate.evaluate(setting.task),
        measure.measure(Ask("top_gradients", layers), 1),
        measure.measure(Ask("bn_statistics", pool), 1),
        measure.measure(Ask("losses", pool), 1),
        measure.measure(Ask("counts", 10), 1),
        measure.measure(Ask("ranges", graph), 1),
        measure.measure(Ask("gram", sorted(state.masks)[:2]), 1),
        measure.measure(Ask("gram_of_noise", sorted(state.masks)[:2]), 1),
        measure.measure(Ask("distortion", Curves(sorted(state.masks)[:2], (0.5,), 20)), 1),
        measure.measure(Ask("distortion_of_noise", Curves(sorted(state.masks)[:2], (0.5,), 20)), 1),
        measure.measure(Ask("input_moments", sorted(state.masks)[:2]), 1),
        measure.measure(Ask("probes", Probes(sorted(state.masks)[:2], examples=20)), 1),
        check.check({"float": litert.write_float(graph)}, 1.0, setting.task),
    ]


def sent(setting: Setting, asked: Sequence[Asked]) -> list[tuple[str, RecordDict]]:
    """(route, records) of each."""
    found = []
    for phase, state, job in asked:
        request = phase.request(state, job)
        values = {**request.values, "experiment": to_json(for_devices(setting.experiment)), **setting.more()}
        found.append((phase.route, to_records(request._replace(values=values))))
    return found
