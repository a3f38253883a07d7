"""Golden values of gates on channels, and of LAPP's and polar consensus's losses, worked by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fedprune.counter_rng import uniforms
from fedprune.graph.coupling import Group, Member
from fedprune.methods.channels import last_of
from fedprune.methods.learned.lapp import lapp
from fedprune.methods.learned.polar_consensus import polar_consensus
from fedprune.training.channel_gates import gated, there, weights_left
from fedprune.types import Now, Params, Sgd

SHAPES: dict[str, tuple[int, ...]] = {"a.weight": (2, 1), "a.bias": (2,), "b.weight": (1, 4), "b.bias": (1,)}
PLACES = np.arange(2)[:, None]


def member(name: str, dim: int = 0, positions: Any = PLACES) -> Member:
    return Member(name, SHAPES[name], dim, positions, dim == 0)


# a flatten gives each of a's channels two columns of b
GROUPS = (
    Group("a", 2, (member("a.weight"), member("a.bias"), member("b.weight", 1, np.array([[0, 1], [2, 3]])))),
)  # fmt: skip
PARAMS: Params = {
    "a.weight": np.array([[3], [1]], np.float32), "a.bias": np.ones(2, np.float32),
    "b.weight": np.ones((1, 4), np.float32), "b.bias": np.ones(1, np.float32),
}  # fmt: skip


def test_gates_are_hard_and_one_channel_stays() -> None:
    chances = torch.tensor([0.2, 0.5, 0.4], requires_grad=True)
    assert there(chances).tolist() == [0, 1, 0]
    assert there(chances / 9).tolist() == [0, 1, 0]
    (grad,) = torch.autograd.grad((there(chances) * torch.tensor([3.0, 4.0, 5.0])).sum(), chances)
    assert grad.tolist() == [3, 4, 5]


def test_what_comes_last_is_gated_and_what_is_left_counted() -> None:
    gates = {"a": torch.tensor([0.5, 1.0])}
    params = {name: torch.from_numpy(value) for name, value in PARAMS.items()}
    found = gated(params, last_of(GROUPS), gates)
    assert {name: found[name].ravel().tolist() for name in ("a.weight", "a.bias")} == {
        "a.weight": [1.5, 1.0], "a.bias": [0.5, 1.0]
    }  # fmt: skip
    assert found["b.weight"] is params["b.weight"]
    # 1.5 rows of one and 3 columns, of 2 and 4
    assert float(weights_left(GROUPS, SHAPES, gates)) == pytest.approx(4.5 / 6)
    norm = [Member(f"n.{key}", (2,), 0, PLACES, True) for key in ("weight", "bias")]
    normed = Group("a", 2, (*GROUPS[0].members, *norm), {"a": "n"})
    assert [m.name for m in last_of([normed])["a"]] == ["n.weight", "n.bias"]
    without = Group("a", 2, GROUPS[0].members, {"a": "n"})  # a batch norm without γ
    assert [m.name for m in last_of([without])["a"]] == ["a.weight", "a.bias"]


def test_the_loss_and_what_moves_a_threshold() -> None:
    method = lapp({}, keep=0.6, penalty=0.1, temperature=0.5, ramp=1, stop=2, channels=lambda: (GROUPS, SHAPES))
    assert method.start(PARAMS).memory["threshold/a"].tolist() == [0.5]  # sizes 3 and 1, in the mean 2
    seen: dict[str, torch.Tensor] = {}

    def net(params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        seen.update(params)
        return torch.zeros(1, 2)

    threshold = torch.tensor([1.0], requires_grad=True)
    params = {name: torch.from_numpy(value) for name, value in PARAMS.items()}
    rest = torch.zeros(1, 1), torch.tensor([0]), {"threshold/a": threshold}
    assert method.local.loss is not None
    loss = method.local.loss(net, params, *rest, Now(1, 0, Sgd(0.1)))
    assert seen["a.weight"].ravel().tolist() == [3, 0]
    # half of the weights, five sixths of what is to be left: (5/6 − 1)²
    assert float(loss.detach()) == pytest.approx(math.log(2) + 0.1 / 36)
    (grad,) = torch.autograd.grad(loss, threshold)
    # 2 · 0.1 · (5/6 − 1) / 0.6, half of the weights with each gate, −σ′(±1) / 0.5 of each of two
    slope = 1 / (1 + math.exp(-1)) / (1 + math.exp(1))
    assert float(grad) == pytest.approx(-0.2 / 6 / 0.6 * 0.5 * 2 * -slope / 0.5)
    after = method.local.loss(net, params, *rest, Now(3, 0, Sgd(0.1)))
    assert seen["a.weight"].ravel().tolist() == [3, 1]
    assert float(after) == pytest.approx(math.log(2))


@pytest.mark.parametrize(("keep", "kept"), [(0.5, [True, False]), (0.6, [True, False]), (1.0, [True, True])])
def test_the_server_keeps_what_is_furthest_above_its_threshold(keep: float, kept: list[bool]) -> None:
    method = lapp({}, keep=keep, stop=2, channels=lambda: (GROUPS, SHAPES))
    model = method.start(PARAMS)
    assert method.act(model, {}, 1) is model
    masks = method.act(model, {}, 2).parts["narrow"].masks
    assert masks["a.bias"].tolist() == kept


def polar_loss(logits: list[float], round: int = 1, step: int = 0) -> tuple[float, list[float], list[float]]:
    """(loss, gates, its gradient with respect to what is trained) at logits, ten times what is trained."""
    given = {"keep": 0.25, "target": 2.0, "polar": 4.0, "stop": 3, "seed": 5}
    method = polar_consensus({}, channels=lambda: (GROUPS, SHAPES), **given)
    trained = torch.tensor(logits).div(10).requires_grad_(True)
    seen: dict[str, torch.Tensor] = {}

    def net(params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        seen.update(params)
        return torch.zeros(1, 2)

    params = {name: torch.from_numpy(value) for name, value in PARAMS.items()}
    rest = torch.zeros(1, 1), torch.tensor([0]), {"logit/a": trained}
    assert method.local.loss is not None
    loss = method.local.loss(net, params, *rest, Now(round, step, Sgd(0.1)))
    grad = torch.autograd.grad(loss, trained)[0] if round <= 3 else torch.zeros(2)
    return float(loss.detach()) - math.log(2), seen["a.bias"].tolist(), grad.tolist()


def test_polar_consensus_pulls_chances_to_the_target_and_to_the_ends() -> None:
    # 2 · (½ − ¼)² + 4 · ¼; with p (1 − p) of ¼, ten times, half of a mean, 2 · 2 · ¼
    loss, _, grad = polar_loss([0.0, 0.0])
    assert loss == pytest.approx(0.125 + 1)
    assert grad == pytest.approx([1.25, 1.25])
    # chances of ¾ and ¼: polar is 4 · 3/16, and its slope 4 · (1 − 2p) / 2 · 3/16 · 10
    loss, _, grad = polar_loss([math.log(3), -math.log(3)])
    assert loss == pytest.approx(0.125 + 0.75)
    both = 0.1875 * 10 / 2
    assert grad == pytest.approx([(1 - 2) * both, (1 + 2) * both])
    # decided: the target alone is left
    loss, gates, _ = polar_loss([80.0, -80.0])
    assert loss == pytest.approx(0.125)
    assert gates == [1, 0]
    loss, gates, _ = polar_loss([80.0, -80.0], round=4)
    assert loss == pytest.approx(0, abs=1e-6)
    assert gates == [1, 1]


def test_polar_consensus_draws_by_seed_round_and_step() -> None:
    drawn = {polar_loss([0.0, 0.0], round, step)[1][0] for round in (1, 2) for step in range(4)}
    assert drawn == {0, 1}
    for step in range(8):
        fits = uniforms(5, f"1/{step}/a", 2) >= 1 - np.array([0.75, 0.25])
        if fits.any():  # else the likelier stays
            assert polar_loss([math.log(3), -math.log(3)], 1, step)[1] == fits.tolist()


def test_the_server_keeps_the_likeliest() -> None:
    method = polar_consensus({}, keep=0.5, stop=2, channels=lambda: (GROUPS, SHAPES))
    model = method.start(PARAMS)
    assert model.memory["logit/a"].tolist() == pytest.approx([0.2, 0.2])
    assert method.act(model, {}, 1) is model
    last = method.act(model._replace(memory={"logit/a": np.array([-1.0, 3.0])}), {}, 2)
    assert last.parts["narrow"].masks["a.bias"].tolist() == [False, True]
