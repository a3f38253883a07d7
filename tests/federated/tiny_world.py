"""A small made-up world for runs that take seconds: loaders, nets, methods and apps, all importable by name.

Worker processes and Flower's engines import it as ``tiny_world``, as they would a user's own module.
"""

import functools
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import nn

from fedprune.aggregation import pooled
from fedprune.data import Dataset, Examples
from fedprune.experiment import Experiment, parse
from fedprune.federated.link import engines
from fedprune.federated.link.client import ROUTES, _handle
from fedprune.federated.rounds.device import Device
from fedprune.methods.layers import dense, masked
from fedprune.pruning import masks as _masks
from fedprune.pruning.candidates import Pool, choose, statistics_of
from fedprune.types import Ask, Found, Masks, Method, Model, Params
from fedprune.wire.payload import Payload

HERE = functools.partial(engines.local, workers=1)
"""In this process, which has loaded torch; where workers are none of what a test is about."""

CLASSES = 3
SHAPE = (1, 6, 6)


def examples(count: int, seed: int, people: int = 0) -> Examples:
    """Noisy images of three patterns that a tiny net can tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    patterns = np.random.default_rng(7).integers(0, 256, (CLASSES, *SHAPE))
    noise = rng.integers(-60, 60, (count, *SHAPE))
    inputs = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
    return Examples(inputs, labels, rng.integers(0, people, count) if people else None)


def _dataset(train: Examples, test: Examples | None) -> Dataset:
    mean, std = np.full((1, 1, 1), 0.5, np.float32), np.full((1, 1, 1), 0.3, np.float32)
    return Dataset("tiny", train, test, ("a", "b", "c"), SHAPE, mean, std, scale=1 / 255)


def load(data_dir: Path | None = None) -> Dataset:
    """180 examples without an official test split."""
    return _dataset(examples(180, 1), None)


def load_people(data_dir: Path | None = None) -> Dataset:
    """Four people who train (0 to 3), and two of the official test split who never do (10 and 11)."""
    test = examples(30, 3, people=2)
    assert test.people is not None
    return _dataset(examples(150, 2, people=4), Examples(test.inputs, test.labels, test.people + 10))


def net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A stem, two prunable convolutions with batch norm in a block each, and a head: some thousand parameters."""

    def conv(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(
        conv(input_shape[0], 6),
        conv(6, 10),
        conv(10, 10),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(10, classes),
    )


def oddly_named(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """``net`` with batch norms in modules that are called as their statistics are."""
    one, two, three, *head = net(input_shape, classes)
    parts = {"mean": one, "var": nn.Sequential(OrderedDict(mean=two)), "x": nn.Sequential(OrderedDict(var=three))}
    return nn.Sequential(OrderedDict(parts | {f"head{index}": layer for index, layer in enumerate(head)}))


def random_candidates(layers: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> Method:
    """Three random masks of a fifth of the weights: none is a top-k of |θ|, so they must travel as masks."""
    rng = np.random.default_rng(seed)
    drawn = [{name: rng.random(shape) < 0.2 for name, shape in layers.items()} for _ in range(3)]

    def asks(model: Model, round: int, found: Found) -> dict[str, Ask]:
        if round:
            return {}
        if "statistics" not in found:
            return {"statistics": Ask("bn_statistics", Pool(drawn, pooled))}
        return {"losses": Ask("losses", Pool(drawn, pooled, found["statistics"]))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        best = choose(found["losses"])
        own = statistics_of(best, found["statistics"])
        return masked(model._replace(params={**model.params, **own}), drawn[best])

    return Method(dense(layers), asks=asks, act=act)


def no_candidate(layers: Mapping[str, tuple[int, ...]]) -> Method:
    """A method that cannot draw its masks."""

    def start(params: Params) -> Model:
        raise ValueError("no mask of the density asked for")

    return Method(start)


def of_no_kind(layers: Mapping[str, tuple[int, ...]]) -> Method:
    """A method that asks for what nobody can measure."""
    return Method(dense(layers), asks=lambda model, round, found: {"mood": Ask("mood")} if round else {})


FEDTINY: dict[str, Any] = {"name": "fedtiny", "density": 0.2, "pool": 3, "period": 1, "stop": 10}


def experiment(**changes: Any) -> Experiment:
    """Four devices, three rounds of FedTiny with a grow phase in each; ``changes`` replace whole keys."""
    table: dict[str, Any] = {
        "name": "tiny",
        "model": "tiny_world:net",
        "rounds": 3,
        "data": {"name": "tiny_world:load", "partition": "dirichlet", "devices": 4, "alpha": 1.0, "public": 0.2},
        "training": {"batch": 8, "grow_batch": 16},
        "pretraining": {"epochs": 1},
        "method": FEDTINY,
    }
    return parse({**table, **changes}, "tiny")


Half = Callable[[Device, Payload], Payload]


def app_with(changed: Mapping[str, Callable[[Half], Half]]) -> ClientApp:
    """The library's ClientApp with some device halves wrapped."""
    app = ClientApp()
    for route, half in ROUTES.items():
        category, _, action = route.partition(".")
        register = {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category]
        wrapped = changed.get(route, lambda half: half)(half)

        def answer(message: Message, context: Context, half: Half = wrapped) -> Message:
            return _handle(half, message, context)

        register(*([action] if action else []))(answer)
    return app


def raising_app() -> ClientApp:
    """Device 3 cannot train."""

    def wrap(half: Half) -> Half:
        def device(self: Device, request: Payload) -> Payload:
            if self.who == 3:
                raise MemoryError("device 3 has no memory left [for/this]")
            return half(self, request)

        return device

    return app_with({"train": wrap})


def dying_app() -> ClientApp:
    """The process of device 1 ends in the training of round 2, as one that the system kills."""

    def wrap(half: Half) -> Half:
        def device(self: Device, request: Payload) -> Payload:
            if request.values["round"] == 2:
                if self.who == 1:
                    os._exit(9)
                time.sleep(0.3)  # so that the others are under way, or wait, when it dies
            return half(self, request)

        return device

    return app_with({"train": wrap})


def pruned_are_zero(params: Params, masks: Masks) -> bool:
    """Every pruned weight is exactly 0."""
    return all(not np.any(params[name][~mask]) for name, mask in masks.items()) and _masks.density(masks) < 1
