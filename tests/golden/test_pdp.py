"""Golden values of N:M patterns, of soft masks and of the round that hardens them, worked by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from fedprune.methods.learned.pdp import pdp
from fedprune.pruning.patterns import halfway, n_of_m
from fedprune.types import Now, Sgd

ROW = np.array([[5.0, 1.0, 3.0, 2.0, 4.0, 6.0]])


def test_a_group_keeps_its_best_and_the_last_may_be_short() -> None:
    assert n_of_m(ROW, 2, 4).astype(int).tolist() == [[1, 0, 1, 0, 1, 1]]
    assert n_of_m(np.ones((1, 4)), 1, 2).astype(int).tolist() == [[1, 0, 1, 0]]
    assert halfway(ROW, 2, 4).tolist() == [[2.5, 2.5, 2.5, 2.5, 0.0, 0.0]]
    assert halfway(ROW, 1, 4).tolist() == [[4.0, 4.0, 4.0, 4.0, 5.0, 5.0]]
    for n, m in ((0, 4), (4, 4)):
        with pytest.raises(ValueError, match=f"{n}:{m} of "):
            n_of_m(ROW, n, m)


def test_groups_of_a_convolution_are_inputs_at_a_place_of_its_kernel() -> None:
    weight = np.arange(16.0).reshape(1, 4, 2, 2)  # input 3 has the largest at every place, then 2
    kept = n_of_m(weight, 1, 2)
    assert kept.shape == weight.shape
    assert kept.sum((0, 2, 3)).tolist() == [0, 4, 0, 4]
    assert n_of_m(np.moveaxis(weight, 1, 3), 1, 2).sum() == 8


def computed(weight: list[list[float]], round: int, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(θ ⊙ m of a layer, the gradient of its sum)."""
    params = {"w": torch.tensor(weight, requires_grad=True)}
    seen: dict[str, torch.Tensor] = {}

    def net(params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        seen.update(params)
        return params["w"].sum().reshape(1, 1).repeat(1, 2)

    method = pdp({"w": (len(weight), len(weight[0]))}, density=0.5, temperature=1.0, **given)
    assert method.local.loss is not None
    method.local.loss(net, params, torch.zeros(1, 1), torch.tensor([0]), {}, Now(round, 0, Sgd(0.1)))
    (grad,) = torch.autograd.grad(seen["w"].sum(), params["w"])
    return seen["w"].detach(), grad


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_the_mask_is_a_half_half_way_and_its_gradient_reaches_what_it_prunes() -> None:
    # of 3 1 2 −1 the half is 3 and 2: t = 1.5
    soft, grad = computed([[3.0, 1.0, 2.0, -1.0]], 1, ramp=1, stop=4)
    mask = [sigmoid(x**2 / 2.25 - 1) for x in (3, 1, 2, 1)]
    assert soft[0].tolist() == pytest.approx([3 * mask[0], mask[1], 2 * mask[2], -mask[3]])
    # (θ σ(θ²/t² − 1))′ = m + 2 θ²/t² m (1 − m)
    assert float(grad[0, 3]) == pytest.approx(mask[3] + 2 / 2.25 * mask[3] * (1 - mask[3]))
    # 2 2 2 1: a kept and a pruned weight of one size, and t of that size
    assert computed([[3.0, 2.0, 2.0, 1.0]], 1, ramp=1, stop=4)[0][0, 1:3].tolist() == [1.0, 1.0]


def test_the_share_falls_along_a_line_and_ends() -> None:
    # in round 1 of 2 three quarters: 2 and 1, t = 1.5
    soft, _ = computed([[4.0, 1.0, 2.0, 3.0]], 1, ramp=2, stop=4)
    assert float(soft[0, 1]) == pytest.approx(sigmoid(1 / 2.25 - 1))
    assert computed([[4.0, 1.0, 2.0, 3.0]], 5, ramp=2, stop=4)[0].tolist() == [[4.0, 1.0, 2.0, 3.0]]


def test_rows_and_groups() -> None:
    # means 2 and 1: t = 1.5 of rows
    soft, _ = computed([[3.0, 1.0], [0.0, -2.0]], 1, ramp=1, stop=4, rows=True)
    assert soft[0].tolist() == pytest.approx([3 * sigmoid(4 / 2.25 - 1), sigmoid(4 / 2.25 - 1)])
    assert float(soft[1, 1]) == pytest.approx(-2 * sigmoid(1 / 2.25 - 1))
    # 1:2 from the first round on: of 3 1 t = 2, of 0 5 t = 2.5
    soft, _ = computed([[3.0, 1.0, 0.0, 5.0]], 1, ramp=3, stop=4, of=2)
    wanted = [3 * sigmoid(9 / 4 - 1), sigmoid(1 / 4 - 1), 0.0, 5 * sigmoid(25 / 6.25 - 1)]
    assert soft[0].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, [[1, 1, 0, 0], [1, 1, 0, 0]]),
        ({"of": 2}, [[1, 0, 1, 0], [1, 0, 1, 0]]),
        ({"rows": True}, [[1, 1, 1, 1], [0, 0, 0, 0]]),
    ],
)
def test_the_server_hardens_it_once(given: dict[str, Any], kept: list[list[int]]) -> None:
    weight = {"w": np.array([[9.0, 8.0, 4.0, 3.0], [-7.0, 6.0, 2.0, 1.0]])}
    method = pdp({"w": (2, 4)}, density=0.5, stop=3, **given)
    model = method.start(weight)
    assert all(method.act(model, {}, round) is model for round in (0, 1, 2, 4))
    hard = method.act(model, {}, 3)
    assert hard.masks["w"].astype(int).tolist() == kept
    assert np.array_equal(hard.params["w"], weight["w"] * kept)
