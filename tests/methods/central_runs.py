"""A method's rounds on one holder of all digits, without a link: small nets, in a second or two."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from fedprune import training
from fedprune.counter_rng import generator
from fedprune.data import Dataset, Examples
from fedprune.data.loading import in_order, load_dataset, shuffled
from fedprune.graph.layers import layer_shapes
from fedprune.models import draws
from fedprune.pruning import masks
from fedprune.training.examples import chosen
from fedprune.types import Local, Method, Model, Params, Sgd

TRAIN = 1297
"""Of the 1,797 digits; all others are the test."""
SGD = Sgd(0.1, 0.9)
_PLAIN = Local()


def lenet(input_shape: tuple[int, ...] = (1, 8, 8), classes: int = 10) -> nn.Module:
    """LeNet-300-100 with a quarter of its units, as the digits have a twelfth of the pixels of MNIST."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 75), nn.ReLU(), nn.Linear(75, 25), nn.ReLU(), nn.Linear(25, 10))


LAYERS = layer_shapes(lenet(), torch.zeros(2, 1, 8, 8))


@functools.cache
def digits() -> tuple[Dataset, Examples, Examples]:
    """(the data set, what is trained on, the test)."""
    dataset = load_dataset("digits")
    order = generator(0, "split").permutation(len(dataset.train))
    return dataset, dataset.train.take(order[:TRAIN]), dataset.train.take(order[TRAIN:])


def initial(seed: int) -> Params:
    """Every parameter of a fresh net."""
    with draws.seeded(seed):
        return training.state_of(lenet())


def run(method: Method, params: Params, rounds: int, order: int = 0) -> list[Model]:
    """The model before each round and after the last, one epoch a round; ``order`` decides that of the batches."""
    models = [method.act(method.start(params), {}, 0)]
    for round in range(1, rounds + 1):
        models.append(method.act(on(models[-1], range(round, round + 1), order, method.local), {}, round))
    return models


def on(model: Model, rounds: range, order: int = 0, local: Local = _PLAIN) -> Model:
    """The model after an epoch under its masks in each of these rounds, whatever its method would do in them."""
    training.one_thread()
    dataset, train, _ = digits()
    net, memory = lenet(), {name: torch.from_numpy(model.memory[name]) for name in local.reads}
    for round in rounds:
        load(net, masks.apply(model.params, model.masks))
        some = train
        if local.examples is not None:
            rng, inputs = generator(order, "examples", round), dataset.normalise(train.inputs)
            some = train.take(chosen(local.examples, net, inputs, train.labels, memory, rng))
        batches = shuffled(dataset, some, 32, generator(order, "order", round), augment=False)
        training.train(net, batches, SGD, model.masks, local=local, memory=memory, round=round)
        model = model._replace(params=training.state_of(net))
    return model


def load(net: nn.Module, params: Params) -> None:
    """Set every parameter of a net."""
    with torch.no_grad():
        training.load_state(net, params)


def accuracy(model: Model) -> float:
    """On the test."""
    dataset, _, test = digits()
    net = lenet()
    load(net, model.params)
    return training.evaluate(net, in_order(dataset, test, 500)).correct / len(test)


def paired(differences: list[float]) -> tuple[float, float]:
    """(mean, half the width of its 95 % confidence interval) of differences over seeds."""
    student = {3: 4.303, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}[len(differences)]
    return float(np.mean(differences)), float(student * np.std(differences, ddof=1) / np.sqrt(len(differences)))
