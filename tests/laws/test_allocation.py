"""Laws of allocations: totals are exact, floors are kept, what is capped is full, and every one is a density."""

import functools
import inspect
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fedprune.pruning import allocation
from fedprune.pruning.allocation import at_least, by_module, erk, half_as_fast, in_proportion, ranked, uniform
from fedprune.pruning.topk import kept_count
from fedprune.types import Scores

Shapes = dict[str, tuple[int, ...]]
NETS = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5).map(
    lambda shapes: {f"layer{i}": shape for i, shape in enumerate(shapes)}
)
DENSITIES = st.floats(0.01, 1)


def tied_scores(shapes: Shapes, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 4, shape).astype(np.float32) for name, shape in shapes.items()}


def counts(scores: Scores, densities: dict[str, float]) -> dict[str, int]:
    return {name: kept_count(densities[name], value.size) for name, value in scores.items()}


ENTRIES = {
    "uniform": lambda shapes: uniform,
    "ranked": lambda shapes: ranked(),
    "erk": erk,
    "at_least": lambda shapes: at_least(0.2, erk(shapes)),
    "in_proportion": lambda shapes: in_proportion({name: float(i) for i, name in enumerate(shapes)}, floor=0.3),
    "by_module": lambda shapes: by_module(lambda name: "odd" if int(name[-1]) % 2 else "even"),
    "half_as_fast": lambda shapes: half_as_fast(list(shapes)[-1:], 3),
}


def test_the_battery_knows_every_allocation() -> None:
    public = {n for n, f in vars(allocation).items() if inspect.isfunction(f) and f.__module__ == allocation.__name__}
    assert {name for name in public if not name.startswith("_")} == set(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES)
@given(shapes=NETS, density=st.floats(0, 1), seed=st.integers(0, 99))
def test_every_layer_gets_a_density(entry: str, shapes: Shapes, density: float, seed: int) -> None:
    scores = tied_scores(shapes, seed)
    shared = ENTRIES[entry](shapes)(scores, density)
    assert list(shared) == list(shapes)
    assert all(0 <= value <= 1 for value in shared.values())


@pytest.mark.parametrize("entry", ENTRIES)
@given(shapes=NETS)
def test_density_1_keeps_everything(entry: str, shapes: Shapes) -> None:
    scores = tied_scores(shapes, 0)
    shared = ENTRIES[entry](shapes)(scores, 1.0)
    assert counts(scores, shared) == {name: math.prod(shape) for name, shape in shapes.items()}


@given(NETS, DENSITIES, st.integers(0, 99))
def test_ranked_is_one_ranking_of_all_scores(shapes: Shapes, density: float, seed: int) -> None:
    scores = tied_scores(shapes, seed)
    every = [(-float(value), at, name) for at, (name, flat) in enumerate(scores.items()) for value in flat.reshape(-1)]
    best = sorted(every, key=lambda entry: entry[:2])[: kept_count(density, len(every))]
    shared = ranked()(scores, density)
    assert counts(scores, shared) == {name: sum(entry[2] == name for entry in best) for name in scores}


@given(NETS, DENSITIES, st.floats(0, 1), st.integers(0, 99))
def test_ranked_keeps_its_floor_and_an_exact_total(shapes: Shapes, density: float, part: float, seed: int) -> None:
    scores, floor = tied_scores(shapes, seed), density * part
    if seed % 3 == 0:  # as prune marks what is pruned already
        scores = {name: np.where(value == 0, -np.inf, value) for name, value in scores.items()}
    sizes = {name: value.size for name, value in scores.items()}
    total = kept_count(density, sum(sizes.values()))
    assume(sum(math.ceil(floor * size) for size in sizes.values()) <= total)

    kept = counts(scores, ranked(floor=floor)(scores, density))

    assert sum(kept.values()) == total
    assert all(kept[name] >= floor * size - 1e-6 for name, size in sizes.items())


@given(NETS, DENSITIES, st.integers(0, 99))
def test_ranked_takes_above_the_floor_only_what_ranks_higher(shapes: Shapes, density: float, seed: int) -> None:
    scores, floor = tied_scores(shapes, seed), density / 3
    sizes = {name: value.size for name, value in scores.items()}
    least = {name: math.ceil(floor * size - 1e-9) for name, size in sizes.items()}
    assume(sum(least.values()) <= kept_count(density, sum(sizes.values())))
    kept = counts(scores, ranked(floor=floor)(scores, density))
    descending = {name: np.sort(value.reshape(-1))[::-1] for name, value in scores.items()}
    # the lowest score that anyone kept beyond its floor is no lower than the highest that anyone lost
    lowest = [descending[name][kept[name] - 1] for name in scores if kept[name] > least[name]]
    highest_lost = [descending[name][kept[name]] for name in scores if kept[name] < sizes[name]]
    if lowest and highest_lost:
        assert min(lowest) >= max(highest_lost)


def test_an_infinite_score_takes_nobodys_floor() -> None:
    scores = {"always": np.full(4, np.inf), "other": np.array([1.0, 2.0])}
    assert counts(scores, ranked(floor=0.5)(scores, 0.5)) == {"always": 2, "other": 1}


@given(NETS, DENSITIES, st.floats(0, 1), st.integers(0, 99))
def test_shares_in_proportion_keep_their_floor_and_an_exact_total(
    shapes: Shapes, density: float, floor: float, seed: int
) -> None:
    scores, rng = tied_scores(shapes, seed), np.random.default_rng(seed)
    budgets = {name: float(rng.integers(0, 4)) for name in shapes}
    shared = in_proportion(budgets, floor=floor)(scores, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(shared[name] * sizes[name] for name in shapes) == pytest.approx(density * sum(sizes.values()), rel=1e-9)
    assert all(value >= floor * density * (1 - 1e-9) for value in shared.values())
    above = {name: (shared[name] - floor * density) * sizes[name] for name in shapes if shared[name] < 1 - 1e-9}
    scale = max((above[name] / budgets[name] for name in above if budgets[name]), default=0.0)
    assert all(above[name] == pytest.approx(scale * budgets[name], rel=1e-6, abs=1e-6 * (scale + 1)) for name in above
               if any(budgets[other] for other in above))  # fmt: skip


@pytest.mark.parametrize("make", [ranked, functools.partial(in_proportion, {})])
@pytest.mark.parametrize("floor", [-0.1, 1.1])
def test_a_floor_outside_0_to_1_is_refused(make: Any, floor: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        make(floor=floor)


def test_a_floor_above_the_density_is_refused() -> None:
    with pytest.raises(ValueError, match=r"floor of 0\.5 .* density 0\.25"):
        ranked(floor=0.5)({"a": np.zeros(4), "b": np.zeros(4)}, 0.25)


def test_ranked_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranked()({"a": np.array([1.0, np.nan]), "b": np.ones(2)}, 0.5)


@given(NETS, st.floats(1e-6, 1))
@example({"layer0": (1,)}, 0.9999999999999999)
@example({"layer0": (1, 4, 6)}, 1.0)
def test_erk_sums_to_the_density_and_caps_at_exactly_1(shapes: Shapes, density: float) -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    shared = erk(shapes)({name: np.empty(shape) for name, shape in shapes.items()}, density)

    assert sum(shared[name] * sizes[name] for name in shapes) == pytest.approx(density * sum(sizes.values()), rel=1e-9)
    free = {name: shared[name] / raw[name] for name in shapes if shared[name] < 1 - 1e-12}
    assert all(shared[name] == 1.0 for name in shapes if name not in free or shared[name] > 1 - 1e-15)
    if free:  # the others follow Σ dims / Π dims, and no capped layer wanted less
        scale = next(iter(free.values()))
        assert all(value == pytest.approx(scale, rel=1e-9) for value in free.values())
        assert all(scale * raw[name] >= 1 - 1e-9 for name in shapes if name not in free)


@given(NETS, DENSITIES, st.integers(1, 8))
def test_half_as_fast_meets_the_density_and_a_slow_layer_loses_half(shapes: Shapes, density: float, level: int) -> None:
    slow, sizes = next(iter(shapes)), {name: math.prod(shape) for name, shape in shapes.items()}
    assume(sizes[slow] * 0.5**level <= density * sum(sizes.values()))
    shared = half_as_fast([slow], level)({name: np.empty(shape) for name, shape in shapes.items()}, density)
    assert sum(shared[name] * sizes[name] for name in shapes) == pytest.approx(density * sum(sizes.values()), rel=1e-6)
    lost = {name: 1 - value ** (1 / level) for name, value in shared.items()}
    assert all(lost[slow] == pytest.approx(value / 2, abs=1e-6) for name, value in lost.items() if name != slow)


@given(NETS, DENSITIES, st.floats(0, 1))
def test_at_least_raises_what_is_below_and_leaves_the_rest(shapes: Shapes, density: float, floor: float) -> None:
    scores = tied_scores(shapes, 0)
    plain, raised = erk(shapes)(scores, density), at_least(floor, erk(shapes))(scores, density)
    assert raised == {name: floor if plain[name] < floor else plain[name] for name in shapes}


@given(NETS, st.floats(0, 1))
def test_uniform_gives_everyone_the_same(shapes: Shapes, density: float) -> None:
    assert uniform(tied_scores(shapes, 0), density) == dict.fromkeys(shapes, density)
