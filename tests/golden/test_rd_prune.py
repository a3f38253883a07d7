"""The knapsack against brute force, and golden values of measured distortions and of a level, worked by hand."""

import itertools
from typing import Any

import numpy as np
import pytest

from fedprune.methods.dynamic.rd_prune import rd_prune
from fedprune.pruning import knapsack
from fedprune.pruning.knapsack import cheapest
from fedprune.types import Masks


def brute(costs: list[Any], sizes: list[list[int]], budget: int) -> float:
    ways = itertools.product(*(range(len(each)) for each in sizes))
    fits = [way for way in ways if sum(size[level] for size, level in zip(sizes, way, strict=True)) <= budget]
    return min(sum(cost[level] for cost, level in zip(costs, way, strict=True)) for way in fits)


@pytest.mark.parametrize("seed", range(30))
def test_the_knapsack_is_as_cheap_as_any_of_four_layers_of_six_levels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [sorted(rng.integers(1, 60, 6).tolist()) for _ in range(4)]
    costs = [rng.random(6) for _ in range(4)]  # a curve need not fall
    least = sum(min(each) for each in sizes)
    budget = int(rng.integers(least, least + 120))
    chosen = cheapest(costs, sizes, budget)
    assert sum(size[level] for size, level in zip(sizes, chosen, strict=True)) <= budget
    found = sum(cost[level] for cost, level in zip(costs, chosen, strict=True))
    assert found == pytest.approx(brute(costs, sizes, budget), rel=1e-12)
    # sizes with a common divisor are no other problem
    assert cheapest(costs, [[7 * size for size in each] for each in sizes], 7 * budget + 6) == chosen


def test_a_budget_counted_coarsely_is_kept_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes = [sorted(rng.integers(1000, 60000, 6).tolist()) for _ in range(4)]
    costs = [np.sort(rng.random(6))[::-1] for _ in range(4)]
    monkeypatch.setattr(knapsack, "_MOST", 200)
    chosen = cheapest(costs, sizes, 100_001)
    assert sum(size[level] for size, level in zip(sizes, chosen, strict=True)) <= 100_001
    found = sum(cost[level] for cost, level in zip(costs, chosen, strict=True))
    assert found <= 1.1 * brute(costs, sizes, 100_001)


def test_a_budget_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="a budget of 2 has no room for the least of every layer"):
        cheapest([np.zeros(1), np.zeros(1)], [[1], [2]], 2)


WEIGHTS = {"a": np.array([4.0, -3.0, 2.0, 1.0]), "b": np.array([[8.0, 7.0], [6.0, 5.0]])}
LAYERS = {name: value.shape for name, value in WEIGHTS.items()}


def kept(masks: Masks) -> dict[str, list[int]]:
    return {name: mask.astype(int).ravel().tolist() for name, mask in masks.items()}


@pytest.mark.parametrize(
    ("worst", "masks"),
    [
        # a keeps 1, 2, 3 or 4 for 9, 1, 1 or 0 and b for 5, 4, 2 or 0; of 5 in all: 2 and 3 for 3, 1 and 4 for 9
        (False, {"a": [1, 1, 0, 0], "b": [1, 1, 1, 0]}),
        # 4 and 1 for 0 + 1, nothing is as cheap
        (True, {"a": [1, 1, 1, 1], "b": [1, 0, 0, 0]}),
    ],
)
def test_a_level_is_shared_out_at_least_cost(worst: bool, masks: dict[str, list[int]]) -> None:
    method = rd_prune(LAYERS, density=5 / 8, levels=1, grid=4, worst=worst)
    model = method.start(WEIGHTS)
    (ask,) = method.asks(model, 0, {}).values()
    assert ask.kind == "distortion"
    assert (ask.args.layers, ask.args.fractions) == (("a", "b"), (0.25, 0.5, 0.75))
    mean, most = np.array([[9.0, 1, 1], [5, 4, 2]]), np.array([[9.0, 8, 8], [1, 1, 1]])
    after = method.act(model, {"curves": {"mean": mean, "worst": most, "examples": np.asarray(3)}}, 0)
    assert kept(after.masks) == masks
    assert all(not after.params[name][~mask].any() for name, mask in after.masks.items())
    assert not method.asks(after, 2, {})
    assert method.act(after, {}, 2) is after


def test_what_the_grid_leaves_over_goes_to_the_layer_that_gave_most() -> None:
    # halves of 4 alone: 2 and 2, where 5 of 8 may stay
    method = rd_prune(LAYERS, density=5 / 8, levels=1, grid=2)
    found = {"mean": np.array([[3.0], [3.0]]), "worst": np.zeros((2, 1)), "examples": np.asarray(3)}
    assert kept(method.act(method.start(WEIGHTS), {"curves": found}, 0).masks) == {"a": [1, 1, 1, 0], "b": [1, 1, 0, 0]}


def test_where_nobody_measures_layers_lose_the_same_share() -> None:
    method = rd_prune(LAYERS, density=0.25, levels=2, period=3)
    half = method.act(method.start(WEIGHTS), {"curves": {}}, 0)
    assert kept(half.masks) == {"a": [1, 1, 0, 0], "b": [1, 1, 0, 0]}
    assert method.asks(half, 3, {})
    assert kept(method.act(half, {"curves": {}}, 3).masks) == {"a": [1, 0, 0, 0], "b": [1, 0, 0, 0]}
