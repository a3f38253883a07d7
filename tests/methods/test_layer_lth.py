"""Layer-LTH's claims: a net with half of its branches gone before training is as good, and really less deep."""

import battery
import numpy as np
import pytest
import torch
from central_runs import SGD, digits, paired
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recovered import channels_of
from torch import nn

from fedprune import models, training
from fedprune.budgets.compute import macs
from fedprune.counter_rng import generator
from fedprune.data.loading import in_order, shuffled
from fedprune.graph import compaction, fold_batch_norm, inference, run, trace
from fedprune.graph.branches import branches
from fedprune.graph.layers import layer_shapes
from fedprune.graph.operations import Conv2d
from fedprune.graph.surgery import shrink
from fedprune.methods import build
from fedprune.models import draws
from fedprune.pruning import masks
from fedprune.pruning.similarity import cka, products
from fedprune.training.features import features
from fedprune.types import Model, Params, Tensor

SEEDS = range(3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 6), st.floats(0.01, 100))
def test_views_that_are_turned_scaled_or_moved_are_one(seed: int, width: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, turn = rng.normal(size=(40, width)), np.linalg.qr(rng.normal(size=(width, width)))[0]
    assert cka(products(x, scale * x @ turn + rng.normal(size=width))) == pytest.approx(1, abs=1e-9)
    assert cka(products(x, rng.normal(size=(40, width)))) < 0.9


def without(net: nn.Module, shape: tuple[int, ...], inputs: Tensor, remove: int) -> Model:
    """With what devices that hold these inputs would answer."""
    layers = layer_shapes(net, torch.zeros(2, *shape))
    method = build({"name": "layer_lth", "remove": remove}, layers, 0, channels=channels_of(net, shape))
    params = training.state_of(net)
    model, found = method.start(params), dict[str, dict[str, Tensor]]()

    def seen(zeros: tuple[str, ...], last: str) -> Tensor:
        load(net, {**params, **{name: np.zeros_like(params[name]) for name in zeros}})
        return features(net, [(inputs, np.zeros(len(inputs)))], last.removesuffix(".weight"))

    while asked := method.asks(model, 0, found):
        ((name, ask),) = asked.items()
        whole = seen((), ask.args.last)
        alike = [cka(products(whole, seen(each, ask.args.last))) for each in ask.args.candidates]
        found[name] = {"similarity": np.array(alike)}
    load(net, params)
    return method.act(model, found, 0)


def load(net: nn.Module, params: Params) -> None:
    with torch.no_grad():
        training.load_state(net, params)


@pytest.mark.parametrize(("name", "remove", "left"), [("resnet8", 1, 7), ("resnet20", 5, 11)])
def test_a_net_gets_less_deep_in_what_is_exported(name: str, remove: int, left: int) -> None:
    """Two convolutions of 9 and ten of 21 are gone, all their multiply-adds with them, and outputs are the same."""
    training.one_thread()
    shape = (3, 8, 8)
    net = models.build(name, shape, 10, seed=3).eval()
    inputs = np.random.default_rng(0).normal(size=(60, *shape)).astype(np.float32)
    model = without(net, shape, inputs, remove)
    gone = sum(not mask.any() for mask in model.masks.values())
    assert gone == 2 * remove
    dense = inference(fold_batch_norm(trace(net, inputs[:1])))
    load(net, model.params)
    with torch.no_grad():
        expected = net(torch.from_numpy(inputs[:1])).numpy()
    traced = fold_batch_norm(trace(shrink(net, model.masks, torch.zeros(2, *shape)), inputs[:1]))
    small = inference(compaction.compact(traced))
    assert sum(isinstance(op, Conv2d) for op in small.operations) == left
    assert np.allclose(run(small, inputs[:1])[small.outputs[0]], expected, atol=1e-5)
    assert macs(small) < (1 - remove / len(branches(channels_of(net, shape)()[0])) / 2) * macs(dense)


def four_branches() -> nn.Module:
    def conv(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)

    blocks = [battery.Residual(*conv(12, 12), nn.ReLU(), *conv(12, 12)) for _ in range(4)]
    head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)
    return nn.Sequential(*conv(1, 12), nn.ReLU(), nn.MaxPool2d(2), *blocks, *head)


def test_half_of_the_branches_are_no_loss() -> None:
    """At 4 epochs. At 8, six seeds: 98.2 %, all branches 98.0, branches half as wide 97.9, the most seen gone 97.7.

    Paired that is 0.2 ± 0.5, 0.3 ± 0.5 and 0.5 ± 0.9 points: which go matters little, and narrow ones are no better.
    """
    training.one_thread()
    dataset, train, test = digits()
    apart: list[float] = []
    for seed in SEEDS:
        with draws.seeded(seed):
            net = four_branches()
        (some, _), *_ = in_order(dataset, train, 250)
        params, model = training.state_of(net), without(net, (1, 8, 8), some, 2)
        right: list[float] = []
        for begun, kept in ((params, {}), (masks.apply(params, model.masks), model.masks)):
            load(net, begun)
            for epoch in range(4):
                batches = shuffled(dataset, train, 32, generator(seed, "order", epoch), augment=False)
                training.train(net, batches, SGD._replace(learning_rate=0.05 * (1 - epoch / 4)), kept)
            right.append(training.evaluate(net, in_order(dataset, test, 500)).correct / len(test))
        apart.append(right[1] - right[0])
    mean, half = paired(apart)
    assert mean + half > 0
    assert mean > -0.015
