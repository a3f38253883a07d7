"""Golden values of steps on weights of which only the largest count, each worked by hand: ZeroFL, SparsyFed."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune.aggregation import Share, coverage_mean
from fedprune.methods.dynamic.sparsyfed import sparsyfed
from fedprune.methods.dynamic.zerofl import zerofl
from fedprune.pruning import masks
from fedprune.training.powerpropagation import powered
from fedprune.training.thin_inputs import kept_shares, thin_inputs
from fedprune.types import Now, Sgd


def test_weights_see_the_largest_inputs_and_inputs_see_all_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[5.0, 0.0, 7.0]]))
        net[0].bias.fill_(100)
    inputs = torch.tensor([[3.0, 1.0, 0.5], [-2.0, 0.1, 0.2]], requires_grad=True)
    with thin_inputs(net, lambda model: {"0.weight": 1 / 3}):
        outputs = net(inputs)
        outputs.sum().backward()
    # 3 and −2 are the largest third of six inputs; whole, they add up to 1, 1.1 and 0.7
    assert net[0].weight.grad.tolist() == [[1.0, 0.0, 0.0]]
    assert inputs.grad is not None
    assert inputs.grad.tolist() == [[5.0, 0.0, 7.0]] * 2
    assert outputs.ravel().tolist() == pytest.approx([118.5, 91.4])
    assert kept_shares(("0.weight",), net) == {"0.weight": pytest.approx(2 / 3)}
    net.zero_grad()
    net(inputs).sum().backward()
    assert net[0].weight.grad.ravel().tolist() == pytest.approx([1.0, 1.1, 0.7])  # as it was before


def test_powerpropagation_moves_what_is_large_and_leaves_zero_alone() -> None:
    trained = {"w": torch.tensor([[4.0, -4.0, 0.0]]), "b": torch.tensor([1.0])}
    grads = {"w": torch.ones(1, 3), "b": torch.ones(1)}
    optimiser = powered(["w"], beta=2.0)
    state = optimiser.init(trained)
    now = Now(1, 0, Sgd(0.1, momentum=0.0, weight_decay=0.5))
    optimiser.update(trained, grads, state, now)
    # w = ±2, whose gradient is 1 · 2 · 2 and decay ±1: 2 − 0.1 · 5 = 1.5 and −2 − 0.1 · 3 = −2.3
    assert trained["w"].ravel().tolist() == pytest.approx([2.25, -5.29, 0.0])
    assert trained["b"].tolist() == pytest.approx([0.9])
    with pytest.raises(ValueError, match=r"beta 0\.5 is below 1"):
        powered(["w"], beta=0.5)


def test_sparsyfed_sends_the_largest_of_all_layers_and_keeps_what_any_device_sent() -> None:
    method = sparsyfed({"a": (2,), "b": (2,)}, density=0.5, stop=2)
    model = method.start({"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)})
    assert masks.density(model.masks) == 1
    assert method.local.sends is not None
    params = {"a": np.array([3.0, -2.0], np.float32), "b": np.array([1.0, -0.5], np.float32), "bias": np.ones(1)}
    sent = method.local.sends(params, {})
    assert {name: value.tolist() for name, value in sent.items()} == {"a": [3, -2], "b": [0, 0], "bias": [1]}
    # averaged with (0, 4) and (5, 0) of another, zeros too
    model = model._replace(params={"a": np.array([1.5, 1.0]), "b": np.array([2.5, 0.0])})
    union = method.act(model, {}, 1)
    assert {name: mask.tolist() for name, mask in union.masks.items()} == {"a": [True, True], "b": [True, False]}
    last = method.act(model, {}, 2)
    assert {name: mask.tolist() for name, mask in last.masks.items()} == {"a": [True, False], "b": [True, False]}
    assert method.act(last, {}, 3) is last


def test_zerofl_computes_with_the_largest_and_averages_what_is_sent() -> None:
    method = zerofl({"w": (4,)}, density=0.5, ratio=0.25)
    model = method.start({"w": np.array([1.0, -3.0, 2.0, 0.5], np.float32), "b": np.zeros(1, np.float32)})
    assert model.params["w"].tolist() == [0, -3, 2, 0]
    assert model.memory["dense/w"].tolist() == [1, -3, 2, 0.5]
    assert method.local.sends is not None
    up = [method.local.sends({"w": model.params["w"], "b": np.ones(1)}, {"dense/w": np.array(each, np.float32)})
          for each in ([4.0, 0.1, -2.0, 1.0], [0.5, 3.0, -1.0, 0.2])]  # fmt: skip
    assert [each["dense/w"].tolist() for each in up] == [[4, 0, -2, 1], [0.5, 3, -1, 0]]
    assert all(each.keys() == {"b", "dense/w"} for each in up)
    # (4 + 3 · 0.5)/4, (0 + 3 · 3)/4, (−2 − 3 · 1)/4, (1 + 0)/4: what is not sent counts 0
    shares = [Share({"dense/w": each["dense/w"]}, {}, weight) for weight, each in zip((1, 3), up, strict=True)]
    model = method.act(model._replace(memory=coverage_mean(model.memory, shares)), {}, 1)
    assert model.memory["dense/w"].tolist() == [1.375, 2.25, -1.25, 0.25]
    assert model.params["w"].tolist() == [1.375, 2.25, 0, 0]


def test_zerofls_gradient_is_of_the_sparse_net_and_of_every_weight() -> None:
    loss: Any = zerofl({"w": (1, 2)}, density=0.5).local.loss
    weights = torch.tensor([[-1.0, 3.0]], requires_grad=True)

    def net(params: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ params["w"]

    found = loss(net, {}, torch.ones(1, 1), torch.tensor([0]), {"dense/w": weights}, Now(1, 0, Sgd(0.1)))
    found.backward()
    # logits are 0 and 3, and the first class is right
    p = math.e**3 / (1 + math.e**3)
    assert found.item() == pytest.approx(-math.log(1 - p))
    assert weights.grad is not None
    assert weights.grad.ravel().tolist() == pytest.approx([-p, p])
