"""Honest messages of every phase, of a small net on the digits: what a server asks, and what a device answers."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import Context, RecordDict
from torch import nn

from fedprune import experiment as _experiment
from fedprune import graph as graphs
from fedprune.counter_rng import generator
from fedprune.experiment import Experiment, load
from fedprune.federated.link import client
from fedprune.federated.link.bundle import Part
from fedprune.federated.link.client import ROUTES, client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import to_records
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases import Phase
from fedprune.federated.rounds.phases.agree import agree
from fedprune.federated.rounds.phases.evaluate import evaluate
from fedprune.federated.rounds.phases.measure import measure
from fedprune.federated.rounds.phases.profile import profile
from fedprune.federated.rounds.phases.train import train
from fedprune.runs import forms
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import Setting, prepare
from fedprune.training.lean import Lean
from fedprune.types import Ask
from simulations.benchmarks._rounds import drive
from simulations.benchmarks.soak.stage import DIGITS

DEVICE, NAME = 1, "kitchen"
"""The device of one data set that is dealt; and the one with a folder of its own."""
_WHOLE = Job()
_SETTINGS = (
    'name="fuzzed"', 'model="simulations.benchmarks.fuzzing.honest:net"', "rounds=1", "data.examples=120",
    "pretraining.epochs=1", "method.pool=2", "method.period=1", "training.batch=16", "training.grow_batch=16",
    "fleet.large.devices=2", "fleet.small.devices=2", "fleet.small.density=0.1", "method.density=0.3",
)  # fmt: skip


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Three small convolutions, the middle one depthwise, and a head: some thousand weights."""

    def conv(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
        layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, groups=groups)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    body = (conv(input_shape[0], 4), conv(4, 4, groups=4), conv(4, 8), conv(8, 8), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8, classes))


class Exchanged(NamedTuple):
    """A phase, with what its two sides honestly say."""

    phase: Phase[Any]
    state: State
    job: Job
    request: RecordDict
    reply: RecordDict


@functools.cache
def setting() -> Setting:
    """The experiment with all that its names stand for; two tiers of two devices."""
    keep = [word for word in _SETTINGS if "devices" not in word or "fleet" in word]
    return prepare(load(Path(DIGITS), [*keep, "data.devices=0"]), DIGITS)


@functools.cache
def own() -> Experiment:
    """An experiment of devices with data of their own."""
    table = {"name": "own", "model": f"{__name__}:net", "rounds": 1, "data": {"name": "arrays", "partition": "own"}}
    return _experiment.parse({**table, "method": {"name": "magnitude", "density": 0.3}}, "own")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A device's own recordings; removed when the process ends."""
    folder = tempfile.TemporaryDirectory()
    inputs = generator(0, "own recordings").standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(Path(folder.name) / "first.npz", inputs=inputs, labels=np.arange(40) % 3)
    return folder


def context() -> Context:
    """A simulated device's, which has a folder of its own as well."""
    config: dict[str, bool | float | int | str] = {
        "partition-id": DEVICE, "num-partitions": 4, client.SIMULATED: True, "data-dir": _folder().name, "name": NAME,
    }  # fmt: skip
    return Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={})


@functools.cache
def trained() -> State:
    """The last state of a run over a local grid: with masks, and with the parts of two tiers."""
    with tempfile.TemporaryDirectory() as name, LocalGrid(client_app, 4) as grid:
        folder = RunFolder(Path(name) / "run")
        folder.begin(setting().experiment)
        return drive(grid, setting(), folder, None)


def answered(part: Part) -> RecordDict:
    """What the device says to a request; raises what its app raises."""
    return client._reply(ROUTES[part.route], part, context())


@functools.cache
def exchanged() -> Mapping[str, Exchanged]:
    """Every phase, by a name of its own."""
    made, state = setting(), trained()
    experiment = made.experiment
    dense = State(-1, state.params)
    pool = next(iter(made.method.asks(made.method.start(state.params), 0, {}).values())).args
    chosen = pool.candidates
    mixed = [{n: np.roll(m, 1) for n, m in chosen[0].items()}, chosen[1]]
    found = {}

    def add(name: str, phase: Phase[Any], state: State, job: Job = _WHOLE, asked: Experiment = experiment) -> None:
        request = phase.request(state, job)
        request = request._replace(values={**request.values, "experiment": _experiment.to_json(asked)})
        sent = to_records(request)
        reply = answered(Part(phase.route, "1", sent))
        found[name] = Exchanged(phase, state, job, sent, reply)

    large, small = list(state.parts)
    add("profile", profile(), state)
    add("train", train(experiment, 1, made.method), state, Job(large, inner=(small,), inner_steps=1))
    add(
        "train lean",
        train(experiment, 1, made.method),
        state,
        Job(small, lean=Lean(8, True, True), batch=8, needs_bytes=1, share=0.5),
    )
    add("top_gradients", measure(Ask("top_gradients", dict.fromkeys(made.layers, 3)), 1), state, Job(large))
    add("evaluate", evaluate(), state, Job(small, batch=32))
    add("statistics", measure(Ask("bn_statistics", pool._replace(candidates=mixed)), 0), dense)
    told = {f"{i}/{n.replace('running_', '')}": v for i in (0, 1) for n, v in state.params.items() if ".running_" in n}
    add("loss", measure(Ask("losses", pool._replace(candidates=mixed, statistics=told)), 0), dense)
    model = made.model(state.params)
    whole = graphs.trace(model, torch.zeros(1, *made.schema.input_shape))
    add("ranges", measure(Ask("ranges", graphs.inference(whole)), 1), state, Job(batch=16))
    add("ranges as traced", measure(Ask("ranges", whole), 1), state)
    finished = forms.make(made, state.view(large), part=large)
    add("check", forms.question(finished), state.view(large), Job(batch=8))
    add("agree", agree(own().data), State(0, {}), asked=own())
    return found
