"""Polar consensus's claims: with the polar term no gate stays undecided, the target is met, and no gate is needed."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from central_runs import SGD, digits, initial, lenet, load
from test_recovered import channels_of

from fedprune import models, training
from fedprune.counter_rng import generator
from fedprune.data.loading import in_order, shuffled
from fedprune.graph import width
from fedprune.methods import MethodError, build
from fedprune.methods.channels import last_of, share_of_weights
from fedprune.training.channel_gates import gated, weights_left
from fedprune.training.net import Net
from fedprune.types import Method

STOP = 8


def consensus(**given: Any) -> Method:
    table = {"name": "polar_consensus", "stop": STOP, **given}
    return build(table, {}, 0, channels=channels_of(lenet(), (1, 8, 8)))


class Learned(NamedTuple):
    undecided: float
    """The part of the units that are there in more than one batch of twenty, and in fewer than nineteen."""
    there: int
    right: float
    """Of the test, after removal."""


def learned(seed: int, polar: float) -> Learned:
    """A perceptron of 100 units, trained for eight epochs from scratch; half of the units are asked for."""
    training.one_thread()
    dataset, train, test = digits()
    net, method = lenet(), consensus(polar=polar)
    load(net, initial(seed))
    model = method.start(initial(seed))
    memory = {name: torch.from_numpy(value) for name, value in model.memory.items()}
    for round in range(1, STOP + 1):
        batches = shuffled(dataset, train, 32, generator(seed, "order", round), augment=False)
        training.train(net, batches, SGD, local=method.local, memory=memory, round=round)
    ended = {name: value.numpy() for name, value in memory.items()}
    model = method.act(model._replace(params=training.state_of(net), memory=ended), {}, STOP)
    masks = model.parts["narrow"].masks
    load(net, {name: value * masks.get(name, 1) for name, value in model.params.items()})
    chances = 1 / (1 + np.exp(-10 * np.concatenate([*ended.values()])))
    return Learned(
        float(np.mean((chances > 0.05) & (chances < 0.95))),
        int(np.count_nonzero(chances > 0.5)),
        training.evaluate(net, in_order(dataset, test, 500)).correct / len(test),
    )


def test_gates_decide_with_the_polar_term_alone_and_meet_the_target() -> None:
    """None of 100 is undecided, without the term 51, 41 and 60; 48, 50 and 49 are there, where 50 were asked for."""
    for seed in range(3):
        polar, none = learned(seed, 3.0), learned(seed, 0.0)
        assert polar.undecided < 0.01
        assert none.undecided > 0.3
        assert abs(polar.there - 50) <= 2
        assert polar.right > 0.85


def test_the_model_without_gates_is_the_gated_one() -> None:
    """Of a residual net with batch norm, in evaluation."""
    shape, rng = (3, 32, 32), np.random.default_rng(0)
    net = models.build("resnet8", shape, 10, seed=1).eval()
    (groups, shapes), start = channels_of(net, shape)(), training.state_of(net)
    params = {name: (value + 0.1 * rng.random(value.shape)).astype(value.dtype) for name, value in start.items()}
    there = {group.name: rng.random(group.size) < 0.5 for group in groups}
    narrow = width.narrow(params, width.width_masks(groups, shapes, there))
    small = width.fit(net, {name: value.shape for name, value in narrow.items()}).eval()
    inputs = torch.from_numpy(rng.normal(size=(8, *shape)).astype(np.float32))
    gates = {name: torch.from_numpy(mask.astype(np.float32)) for name, mask in there.items()}
    with torch.no_grad():
        load(small, narrow)
        whole = gated({name: torch.as_tensor(value) for name, value in params.items()}, last_of(groups), gates)
        large = Net(net).still(whole, inputs)
        torch.testing.assert_close(small(inputs), large, rtol=1e-5, atol=1e-5)
    assert float(weights_left(groups, shapes, gates)) == pytest.approx(share_of_weights(groups, shapes)(there))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.0}, r"keep 0\.0 is outside \(0, 1\]"),
        ({"target": 0.0}, r"target 0\.0 is not above 0"),
        ({"stop": 0}, r"stop 0 is below 1"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        consensus(**given)
