"""A step of BiP worked by hand, and its slope beside autodiff on toys whose lower level has an end in closed form."""

import numpy as np
import pytest
import torch

from fedprune.methods import build
from fedprune.methods.learned.bip import slope

WEIGHTS = np.array([[4.0, -3.0, 2.0, 1.0]], np.float32)


def test_scores_go_downhill_by_steps_of_length_one_and_what_returns_is_what_it_was() -> None:
    method = build({"name": "bip", "density": 0.5, "beta": 0.75, "gamma": 1.0, "stop": 2}, {"w": (1, 4)}, 0)
    model = method.start({"w": WEIGHTS})
    assert model.memory["score/w"].tolist() == [[1.0, 0.75, 0.5, 0.25]]
    assert model.params["w"].tolist() == [[4.0, -3.0, 0.0, 0.0]]
    trained = model._replace(params={"w": np.array([[5.0, -2.0, 0.0, 0.0]], np.float32)})
    # g ⊙ (θ − m g): [1·(5 − 1), 2·(−2 − 2), −2·2, 4·1] = [4, −8, −4, 4], of length √28; the first step is 0.75
    found = {"grad": {"w": np.array([[1.0, 2.0, -2.0, 4.0]])}}
    assert method.asks(trained, 1, {})["grad"].args == ("w",)
    after = method.act(trained, found, 1)
    steps = 0.75 * np.array([[4.0, -8.0, -4.0, 4.0]]) / np.sqrt(28)
    assert after.memory["score/w"] == pytest.approx(np.array([[1.0, 0.75, 0.5, 0.25]]) - steps, abs=1e-6)
    # 0.43, 1.88, 1.07, −0.32: the first goes, the third comes back as it was
    assert after.params["w"].tolist() == [[0.0, -2.0, 2.0, 0.0]]
    assert after.memory["whole/w"].tolist() == [[5.0, -2.0, 2.0, 1.0]]
    # half as long a step in round 2; the first, which stands still, has kept 5
    again = method.act(after, {"grad": {"w": np.array([[-8.0, 0.0, 0.0, 0.0]])}}, 2)
    assert again.memory["score/w"][0, 0] == pytest.approx(1 - steps[0, 0] + 0.375 * 40 / 20, abs=1e-6)
    assert again.params["w"].tolist() == [[5.0, -2.0, 0.0, 0.0]]
    assert method.act(trained, {"grad": {}}, 1) is trained
    assert not method.asks(again, 3, {})


def derived(mask: torch.Tensor, slopes: torch.Tensor, curve: float, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(θ*(m), dℓ/dm by autodiff through it): ℓ(z) = aᵀz + c/2 ‖z‖², θ* = −m a / (c m² + γ)."""
    mask = mask.clone().requires_grad_(True)
    answer = -mask * slopes / (curve * mask**2 + gamma)
    z = mask * answer
    loss = (slopes * z + curve / 2 * z**2).sum()
    return answer.detach(), torch.autograd.grad(loss, mask)[0]


def test_the_slope_is_that_of_autodiff_where_the_loss_is_linear_and_nears_it_as_gamma_grows() -> None:
    torch.manual_seed(0)
    slopes = torch.randn(50, dtype=torch.float64)
    mask = (torch.rand(50) < 0.5).double()
    answer, exact = derived(mask, slopes, 0.0, 0.7)
    assert np.allclose(slope(answer.numpy(), mask.numpy(), slopes.numpy(), 0.7), exact.numpy(), atol=1e-12)
    assert float(exact.abs().sum()) > 1
    wrong = []
    for gamma in (10.0, 100.0):
        answer, exact = derived(mask, slopes, 1.0, gamma)
        grad = slopes + mask * answer
        found = slope(answer.numpy(), mask.numpy(), grad.numpy(), gamma)
        wrong.append(np.abs(found - exact.numpy()).max() / exact.abs().max().item())
    # what second derivatives would add is of the order c/γ
    assert wrong[1] < 0.12 * wrong[0] < 0.12 * 0.2
