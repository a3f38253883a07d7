"""Golden values of steps that make room before weights are pruned, worked by hand: FedMef."""

import numpy as np
import pytest
import torch
from torch import nn

from fedprune.methods.dynamic.fedmef import fedmef
from fedprune.training.activations import pruned_activations
from fedprune.training.extrusion import extruding
from fedprune.types import Model, Now, Sgd


def stepped(steps: int, rate: float, round: int = 2) -> list[float]:
    """The weights after so many steps whose loss has a gradient of 0.1 in each of the three that are kept."""
    weight = nn.Parameter(torch.tensor([4.0, -1.0, 2.0, 0.0]))
    optimiser = extruding(("w",), lambda round: 0.4 if round == 2 else 0.0, penalty=0.25, budget=2, rate=rate)
    with torch.no_grad():
        state = optimiser.init({"w": weight})
        for step in range(steps):
            grad = torch.tensor([0.1, 0.1, 0.1, 0.0])
            optimiser.update({"w": weight}, {"w": grad}, state, Now(round, step, Sgd(0.1, momentum=0.0)))
    return weight.tolist()


def test_the_smallest_weights_are_pushed_to_zero_in_rounds_that_prune() -> None:
    # ⌊0.4 · 3⌋ = 1 weight is low: −1, of gradient 0.1 + 2 · 0.25 · −1 = −0.4
    assert stepped(1, rate=0.0) == pytest.approx([3.99, -0.96, 1.99, 0.0])
    # then 0.1 + 0.5 · −0.96 = −0.38
    assert stepped(2, rate=0.0) == pytest.approx([3.98, -0.922, 1.98, 0.0])
    assert stepped(1, rate=0.0, round=3) == pytest.approx([3.99, -1.01, 1.99, 0.0])


def test_the_learning_rate_falls_with_what_is_left_of_the_budget_and_of_the_weights() -> None:
    # of 2 steps: (4 − 0)/(4 − 0) · (2σ(1) − 1) · 1 = 0.4621
    first = -1 + 0.46212 * 0.4
    assert stepped(1, rate=1.0) == pytest.approx([4 - 0.046212, first, 2 - 0.046212, 0.0], abs=1e-5)
    # (4 − 2)/(4 − 1) · (2σ(0.81515) − 1) = 2/3 · 0.38638
    second = first - 2 / 3 * 0.38638 * (0.1 + 0.5 * first)
    assert stepped(2, rate=1.0)[1] == pytest.approx(second, abs=1e-5)
    # and then the round's
    assert stepped(3, rate=1.0)[1] == pytest.approx(second - 0.1 * (0.1 + 0.5 * second), abs=1e-5)


def test_the_largest_activations_alone_have_a_part_in_the_gradient_of_weights() -> None:
    layer = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[2.0, 5.0]]))
    inputs = torch.tensor([[1.0, -3.0], [2.0, 0.5]], requires_grad=True)
    with pruned_activations(layer, keep=0.5):
        outputs = layer(inputs)
        outputs.sum().backward()
    assert outputs.flatten().tolist() == [-13.0, 6.5]
    assert layer[0].weight.grad.tolist() == [[2.0, -3.0]]  # not 1 + 2 and −3 + 0.5
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[2.0, 5.0], [2.0, 5.0]]
    layer.zero_grad()
    layer(inputs).sum().backward()
    assert layer[0].weight.grad.tolist() == [[3.0, -2.5]]


def test_it_swaps_in_every_layer_and_each_half_can_be_left_out() -> None:
    method = fedmef({"a": (4,), "b": (8,)}, density=0.5, fraction=1.0, period=2, stop=4)
    kept = {"a": np.array([True, True, False, False]), "b": np.arange(8) < 4}
    model = Model({"a": np.array([1.0, -3.0, 0, 0]), "b": np.array([1.0, 4.0, -3.0, 2.0, 0, 0, 0, 0])}, kept)
    # 1/2 · (1 + cos(π/2)) of 2 and of 4
    (ask,) = method.asks(model, 2, {}).values()
    assert (ask.kind, dict(ask.args)) == ("top_gradients", {"a": 1, "b": 2})
    grad = {"a": np.array([0, 0, 0.1, -0.2]), "b": np.array([9.0, 0, 0, 0, 0.1, 0.4, 0, -0.3])}
    after = method.act(model, {"grad": grad}, 2)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in after.masks.items()} == {
        "a": [1, 3],
        "b": [1, 2, 5, 7],
    }
    assert not method.asks(model, 3, {})
    plain = fedmef({"a": (4,)}, density=0.5, penalty=0.0, activations=1.0).local
    assert (plain.optimiser, plain.around) == (None, None)
