"""Golden values of channels that are pushed, zeroed and removed, and of masks that are voted on, worked by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from fedprune.graph.coupling import Group, Member
from fedprune.methods.channels import best_channels, pushed, redundancy, rows, without, zeroed
from fedprune.methods.learned.lottery_jackpots import lottery_jackpots
from fedprune.pruning.topk import towards_top_k
from fedprune.training.half_space import half_space
from fedprune.types import Model, Now, Part, Sgd, Trained

PLACES = np.arange(2)[:, None]
ROWS = Member("a.weight", (2, 2), 0, PLACES, True)
BIAS = Member("a.bias", (2,), 0, PLACES, True)
COLUMNS = Member("b.weight", (1, 2), 1, PLACES, False)
SHAPES = {"a.weight": (2, 2), "a.bias": (2,), "b.weight": (1, 2)}
GROUP = Group("a", 2, (ROWS, BIAS, COLUMNS))


def step(grad: list[float], penalty: float, x: tuple[float, float] = (3.0, 4.0), **given: Any) -> list[float]:
    """Where a half-space step of η = 0.1 takes a channel of two weights that is pushed, beside one that is not."""
    weight = torch.tensor([x, [1.0, 0.0]])
    trained = {"a.weight": weight, "push/a": torch.tensor([penalty, 0.0])}
    optimiser = half_space({"push/a": [ROWS]}, **given)
    grads = {"a.weight": torch.tensor([grad, [1.0, 1.0]])}
    optimiser.update(trained, grads, optimiser.init(trained), Now(1, 0, Sgd(0.1)))
    torch.testing.assert_close(weight[1], torch.tensor([0.9, -0.1]))
    assert trained["push/a"].tolist() == [penalty, 0.0]
    found: list[float] = weight[0].tolist()
    return found


@pytest.mark.parametrize(
    ("grad", "penalty", "given", "share"),
    [
        ([0.0, 0.0], 0.5, {}, 1 - 0.1 * 0.5 / 5),
        # the gradient alone would have it grow by a tenth; 5 of λ is the least that stops it, and twice that is taken
        ([-3.0, -4.0], 0.5, {}, 1 + 0.1 - 0.1 * 10 / 5),
        ([-3.0, -4.0], 0.5, {"cap": 4.0}, 1 + 0.1 - 0.1 * 4 / 5),
        ([-3.0, -4.0], 0.5, {"amplify": 1.0}, 1.0),
        # past the middle it is in the other half-space
        ([0.0, 0.0], 60.0, {}, 0.0),
        ([0.0, 0.0], 0.5, {"epsilon": 0.98}, 0.99),
        ([0.0, 0.0], 0.5, {"epsilon": 0.995}, 0.0),
    ],
)
def test_a_half_space_step(grad: list[float], penalty: float, given: dict[str, float], share: float) -> None:
    assert step(grad, penalty, **given) == pytest.approx([3 * share, 4 * share])


def test_a_channel_at_zero_stays_there() -> None:
    assert step([5.0, -2.0], 0.5, x=(0.0, 0.0)) == [0.0, 0.0]


def test_redundancy_is_half_a_cosine_and_half_of_what_a_mean_row_is_larger() -> None:
    # norms 5 and 1, in the mean 3; along and against the gradient
    found = redundancy(np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[6.0, 8.0], [0.0, -7.0]]))
    assert found == pytest.approx([0.5 + 0.5 * 3 / 5, -0.5 + 0.5 * 3])


def test_every_group_keeps_a_channel() -> None:
    kept = best_channels({"a": np.array([9.0, 8.0]), "b": np.array([2.0, 1.0]), "c": np.array([0.0, 0.0])}, 0.1)
    assert {n: k.tolist() for n, k in kept.items()} == {"a": [True, False], "b": [True, False], "c": [True, False]}


def test_rows_are_side_by_side() -> None:
    params = {"a.weight": np.array([[1.0, 2.0], [3.0, 4.0]]), "a.bias": np.array([5.0, 6.0])}
    assert rows([ROWS, BIAS], params).tolist() == [[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]]


def test_devices_with_half_of_the_examples_put_a_channel_back_to_zero() -> None:
    def brought(first: float, second: float, weight: float) -> Trained:
        params = {"a.weight": np.array([[first] * 2, [second] * 2]), "a.bias": np.array([first, second])}
        return Trained(params, {}, weight)

    model = pushed(Model(dict(brought(0.5, 0.7, 1).params)), {"a": np.array([False, False])}, 0.5)
    made = {"a": [ROWS, BIAS]}
    found = zeroed(made, model, {0: brought(0, 1, 3), 1: brought(1, 0, 2)}).params
    assert found["a.weight"].tolist() == [[0.0, 0.0], [0.7, 0.7]]
    assert found["a.bias"].tolist() == [0.0, 0.7]
    free = pushed(model, {"a": np.array([True, True])}, 0.5)
    assert zeroed(made, free, {0: brought(0, 0, 1)}).params == model.params


def test_what_is_removed_is_gone_from_the_part_and_pushed_no_more() -> None:
    model = Model({}, memory={"push/a": np.ones(2)}, parts={"narrow": Part({}, {})})
    found = without(model, lambda: ([GROUP], SHAPES), {"a": np.array([False, True])})
    masks = found.parts["narrow"].masks
    assert masks["a.weight"].tolist() == [[False, False], [True, True]]
    assert masks["b.weight"].tolist() == [[False, True]]
    assert found.memory["push/a"].tolist() == [0.0]


def test_no_more_is_swapped_than_is_allowed_and_nothing_for_a_worse() -> None:
    mask, scores = np.array([True, True, True, False, False]), np.array([3.0, 1.0, 2.0, 5.0, 0.5])
    assert towards_top_k(mask, scores, 0).tolist() == mask.tolist()
    assert towards_top_k(mask, scores, 1).tolist() == [True, False, True, True, False]
    assert towards_top_k(mask, scores, 9).tolist() == [True, False, True, True, False]
    assert towards_top_k(np.ones(2, bool), np.zeros(2), 2).all()


@pytest.mark.parametrize(("round", "swaps"), [(1, 100), (2, 31), (3, 6), (4, 0), (5, 0)])
def test_the_short_restriction_of_lottery_jackpots(round: int, swaps: int) -> None:
    # ⌊(1 − (r − 1)/4)⁴ · 100⌋; rounded up before it is multiplied it would be 100 in every round
    weight = np.arange(1, 201, dtype=np.float32)
    method = lottery_jackpots({"w": (200,)}, density=0.5, stop=4)
    before = method.start({"w": weight})
    votes = {0: Trained({}, {}, 1.0, {"vote/w": ~before.masks["w"]})}
    after = method.act(method.join(before, votes), {}, round)
    assert np.count_nonzero(after.masks["w"]) == 100
    assert np.count_nonzero(before.masks["w"] & ~after.masks["w"]) == swaps
    assert np.array_equal(after.params["w"], np.where(after.masks["w"], weight, 0))


def test_scores_go_on_from_the_share_of_votes() -> None:
    method = lottery_jackpots({"w": (2,)}, density=0.5)
    before = method.start({"w": np.array([1.0, -2.0], np.float32)})
    assert before.memory["score/w"].tolist() == pytest.approx([0.99, 1.0])
    votes = {
        device: Trained({}, {}, weight, {"vote/w": np.array(vote)})
        for device, (weight, vote) in enumerate([(3.0, [True, False]), (1.0, [False, True])])
    }
    assert method.join(before, votes).memory["score/w"].tolist() == pytest.approx([0.9975, 0.9925])


def test_votes_that_tie_are_settled_by_magnitude() -> None:
    method = lottery_jackpots({"w": (4,)}, density=0.5)
    before = method.start({"w": np.array([4.0, -3.0, 1.0, -2.0], np.float32)})
    votes = {
        device: Trained({}, {}, 1.0, {"vote/w": np.isin(np.arange(4), vote)})
        for device, vote in enumerate([(0, 2), (0, 3)])
    }
    after = method.act(method.join(before, votes), {}, 1)
    assert after.params["w"].tolist() == [4.0, 0.0, 0.0, -2.0]
