"""Golden values of Turbo-VBI, worked by hand."""

import math

import numpy as np
import pytest
import torch

from fedprune.aggregation import product_of_gaussians
from fedprune.counter_rng import uniforms
from fedprune.methods.learned.turbo_vbi import turbo_vbi
from fedprune.pruning.chains import extrinsic
from fedprune.types import Model, Now, Params, Sgd, Trained


def test_the_surer_device_counts_for_more() -> None:
    parts = [(np.array([1.0]), np.log([0.5]), 1.0), (np.array([4.0]), np.log([0.125]), 3.0)]
    mean, log = product_of_gaussians(parts)
    # precisions 2 and 8, of one and three examples of four: (2 · 1 + 24 · 4) / 4 over 6.5
    assert mean.tolist() == pytest.approx([24.5 / 6.5])
    assert np.exp(-log).tolist() == pytest.approx([6.5])
    far = product_of_gaussians([(np.array([1.0]), np.array([-1e30]), 1.0), (np.array([2.0]), np.array([1e30]), 1.0)])
    assert [float(each[0]) for each in far] == [1.0, pytest.approx(-1e30)]


def test_a_neighbour_is_heard() -> None:
    # it is kept with chance 3/4, where a half is: log (½ + ½ · 3/2) / (½ + ½ · ½)
    found = extrinsic(np.array([[math.log(3), 0.0]]), 0.5, 0.5)
    assert found.tolist() == [pytest.approx([0.0, math.log(5 / 3)])]


def test_a_step_draws_weights_and_weighs_how_far_they_are_from_the_prior() -> None:
    method = turbo_vbi({"w": (1, 2)}, density=0.5, examples=8.0, stop=2, seed=3)
    params = {"w": torch.tensor([[1.0, -2.0]], requires_grad=True)}
    memory = {"spread/w": torch.full((1, 2), -0.2 * math.log(2)), "precision/w": torch.tensor([[4.0, 1.0]])}
    seen = dict[str, torch.Tensor]()

    def net(params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        seen.update(params)
        return torch.zeros(1, 2)

    assert method.local.loss is not None
    rest = torch.zeros(1, 1), torch.tensor([0]), memory
    found = method.local.loss(net, params, *rest, Now(2, 5, Sgd(0.1)))
    # σ² is 1/4: ½ (4 · 1¼ + 2 log 2) and ½ (1 · 4¼ + 2 log 2), over eight examples
    assert float(found.detach()) == pytest.approx(math.log(2) + (4.625 + 2 * math.log(2)) / 8)
    (grad,) = torch.autograd.grad(found, params["w"])
    assert grad.tolist() == [pytest.approx([4 / 8, -2 / 8])]
    noise = torch.special.ndtri(torch.from_numpy(uniforms(3, "2/5/w", (1, 2))))
    torch.testing.assert_close(seen["w"].double(), torch.tensor([[1.0, -2.0]]) + noise / 2, rtol=1e-5, atol=1e-6)
    assert float(method.local.loss(net, params, *rest, Now(3, 0, Sgd(0.1)))) == pytest.approx(math.log(2))
    assert seen["w"] is params["w"]


def test_the_server_joins_infers_and_keeps_the_likeliest() -> None:
    method = turbo_vbi({"w": (1, 2)}, density=0.5, cling=0.0, active=1.0, inactive=0.25, stop=2)
    none = np.full((1, 2), -9.0, np.float32)  # σ² of e⁻⁹⁰

    def brought(weights: list[float]) -> Trained:
        params: Params = {"w": np.array([weights], np.float32)}
        return Trained(params, {}, 1, {"spread/w": none})

    begun = method.start({"w": np.zeros((1, 2), np.float32)})
    model = method.join(begun, {0: brought([0.0, 1.5]), 1: brought([0.0, 0.5])})
    assert model.params["w"].tolist() == [[0.0, 1.0]]
    model = method.act(model, {}, 1)
    # m is 0 and ½: odds log 4 − 3/2 log 4 and log 4 − 3/2 log 2, so that q is 1/3 and √2 / (1 + √2)
    q = math.sqrt(2) / (1 + math.sqrt(2))
    assert model.memory["precision/w"].tolist() == [
        pytest.approx([1.5 * (1 / 3 + 2 / 3 * 4), 1.5 * (q / 1.5 + (1 - q) / 0.75)])
    ]
    assert model.masks["w"].all()
    last = method.act(model, {}, 2)
    assert last.masks["w"].tolist() == [[False, True]]
    averaged: Model = last
    assert method.join(averaged, {0: brought([0.0, 9.0])}) is averaged
    assert method.act(last, {}, 3) is last
