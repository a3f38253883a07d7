"""Laws of pruners, in one battery over every criterion, granularity, allocation and schedule."""

import inspect
from collections.abc import Callable

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.pruning import criteria, granularity, masks
from fedprune.pruning.allocation import at_least, erk, ranked, uniform
from fedprune.pruning.granularity import unstructured
from fedprune.pruning.pruners import chain, every, grow, prune, refill, regrow, score, within
from fedprune.pruning.schedules import constant, cosine, cubic, exponential, linear, one_shot
from fedprune.pruning.topk import kept_count
from fedprune.types import Allocation, Criterion, Evidence, Granularity, Masks, Pruner, Schedule, Scores

SHAPES = {"stem.weight": (4, 1, 2, 2), "block.0.weight": (3, 4, 2, 1), "block.1.weight": (5, 3), "head.weight": (2, 5)}
CRITERIA = {name: getattr(criteria, name) for name in criteria.__all__ if name != "needs"}
GRANULARITIES = {name: value for name, value in vars(granularity).items() if isinstance(value, Granularity)}
ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    "ranked": ranked(),
    "ranked_floor": ranked(floor=0.1),
    "erk": erk(SHAPES),
    "at_least": at_least(0.3, erk(SHAPES)),
}
LAST = 6
SCHEDULES: dict[str, Callable[[float], Schedule]] = {
    "constant": constant,
    "one_shot": lambda finish: one_shot(1.0, finish, at=3),
    "linear": lambda finish: linear(1.0, finish, end=LAST),
    "cubic": lambda finish: cubic(1.0, finish, begin=1, end=LAST),
    "exponential": lambda finish: exponential(1.0, finish, end=LAST),
    "cosine": lambda finish: cosine(1.0, finish, end=LAST),
}
DENSITIES = st.floats(0.3, 1)  # below, the floor of a channel in each layer is more than there is
MASKS = st.fixed_dictionaries({name: hnp.arrays(bool, shape) for name, shape in SHAPES.items()})
FRACTIONS = st.floats(0, 1)

# A battery runs a test for many entries: a few examples of each come to many of the rule.
few = settings(max_examples=settings().max_examples // 5)

by_criterion = pytest.mark.parametrize("by", CRITERIA.values(), ids=CRITERIA)
by_granularity = pytest.mark.parametrize("across", GRANULARITIES.values(), ids=GRANULARITIES)
by_allocation = pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS)


@st.composite
def evidence_of_everything(draw: st.DrawFn) -> Evidence:
    """Evidence for every criterion; half of it of few values, so that ties are the rule."""
    rng, tied = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.booleans())
    kinds = sorted({kind for criterion in CRITERIA.values() for kind in criteria.needs(criterion)})

    def values(shape: tuple[int, ...]) -> np.ndarray:
        return (rng.integers(-2, 3, shape) if tied else rng.normal(size=shape)).astype(np.float32)

    found = {kind: {name: values(shape) for name, shape in SHAPES.items()} for kind in kinds}
    return {**found, "time": {name: 1 + np.abs(value) for name, value in found["time"].items()}}


def count(given_masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in given_masks.items()}


def same(a: Masks, b: Masks) -> bool:
    return list(a) == list(b) and masks.equal(a, b)


def units_of(across: Granularity, values: Scores) -> Scores:
    return across.pool({name: value.astype(np.float64) for name, value in values.items()})


def test_the_battery_knows_every_criterion_and_granularity() -> None:
    functions = {name for name, f in vars(criteria).items() if inspect.isfunction(f)} - {"needs"}
    assert functions == set(CRITERIA)
    assert set(GRANULARITIES) >= {"unstructured", "channel"}


# prune


@by_criterion
@by_granularity
@by_allocation
@few
@given(evidence=evidence_of_everything(), density=DENSITIES)
def test_prune_meets_the_density_with_the_best_units(
    by: Criterion, across: Granularity, allocate: Allocation, evidence: Evidence, density: float
) -> None:
    dense = masks.ones_like(SHAPES)
    pruner = prune(by, constant(density), across=across, allocate=allocate)

    pruned = pruner.update(dense, evidence, 0)

    masks.check(pruned, dense)
    pooled = across.pool(score(by, evidence, dense))
    shared = allocate(pooled, density)
    for name, units in units_of(across, pruned).items():
        assert set(np.unique(units)) <= {0.0, 1.0}  # a unit is kept or dropped whole
        k, flat = kept_count(shared[name], units.size), pooled[name].reshape(-1).tolist()
        best = sorted(range(len(flat)), key=lambda i, flat=flat: (-flat[i], i))[:k]
        assert np.flatnonzero(units).tolist() == sorted(best)


@by_criterion
@by_granularity
@by_allocation
@few
@given(start=MASKS, evidence=evidence_of_everything(), density=DENSITIES)
def test_prune_never_revives_and_a_second_time_changes_nothing(
    by: Criterion, across: Granularity, allocate: Allocation, start: Masks, evidence: Evidence, density: float
) -> None:
    pruner = prune(by, constant(density), across=across, allocate=allocate)
    once = pruner.update(start, evidence, 0)
    assert masks.nested(once, start)
    assert list(once) == list(start)
    assert pruner.grows(start, 0) == {}
    assert same(pruner.update(once, evidence, 0), once)


@by_allocation
@pytest.mark.parametrize("schedule", SCHEDULES)
@few
@given(evidence=evidence_of_everything(), density=DENSITIES)
def test_prune_follows_its_schedule_down_to_the_last_density(
    allocate: Allocation, schedule: str, evidence: Evidence, density: float
) -> None:
    to = SCHEDULES[schedule](density)
    pruner = prune(criteria.magnitude, to, allocate=allocate)
    now = masks.ones_like(SHAPES)
    for step in range(LAST + 1):
        before, now = now, pruner.update(now, evidence, step)
        assert masks.nested(now, before)
    # the evidence did not change, so step by step comes to what one step would
    at_once = prune(criteria.magnitude, constant(to(LAST)), allocate=allocate)
    assert same(now, at_once.update(masks.ones_like(SHAPES), evidence, 0))


@given(start=MASKS, evidence=evidence_of_everything(), density=DENSITIES)
def test_prune_by_one_ranking_is_exact_over_all_layers(start: Masks, evidence: Evidence, density: float) -> None:
    pruned = prune(criteria.magnitude, constant(density), allocate=ranked()).update(start, evidence, 0)
    total = kept_count(density, sum(mask.size for mask in start.values()))
    assert masks.kept(pruned) == min(total, masks.kept(start))


@given(start=MASKS, evidence=evidence_of_everything(), density=DENSITIES)
def test_prune_layer_by_layer_is_exact_in_each(start: Masks, evidence: Evidence, density: float) -> None:
    pruned = prune(criteria.magnitude, constant(density)).update(start, evidence, 0)
    for name, mask in start.items():
        assert int(pruned[name].sum()) == min(int(mask.sum()), kept_count(density, mask.size))


# grow


@by_criterion
@pytest.mark.parametrize("allocate", [uniform, erk(SHAPES), at_least(0.3, uniform)])
@few
@given(start=MASKS, evidence=evidence_of_everything(), density=st.floats(0, 1))
def test_grow_never_drops_and_grows_what_it_says(
    by: Criterion, allocate: Allocation, start: Masks, evidence: Evidence, density: float
) -> None:
    pruner = grow(by, constant(density), allocate=allocate)
    grown = pruner.update(start, evidence, 0)
    assert masks.nested(start, grown)
    difference = {name: int(np.sum(grown[name] & ~start[name])) for name in SHAPES}
    assert pruner.grows(start, 0) == {name: n for name, n in difference.items() if n}
    shared = allocate({name: np.ones(shape) for name, shape in SHAPES.items()}, density)
    for name, mask in grown.items():
        assert mask.sum() == max(start[name].sum(), kept_count(shared[name], mask.size))
        left, taken = ~mask, mask & ~start[name]
        if left.any() and taken.any():
            scores = score(by, evidence, start)[name]
            assert scores[taken].min() >= scores[left].max()


# regrow


@by_criterion
@pytest.mark.parametrize("grow_by", CRITERIA.values(), ids=CRITERIA)
@few
@given(start=MASKS, evidence=evidence_of_everything(), fraction=FRACTIONS)
def test_regrow_swaps_and_keeps_every_density(
    by: Criterion, grow_by: Criterion, start: Masks, evidence: Evidence, fraction: float
) -> None:
    pruner = regrow(by, grow_by, constant(fraction))
    after = pruner.update(start, evidence, 0)
    says = pruner.grows(start, 0)

    assert count(after) == count(start)
    assert list(after) == list(start)
    drop_scores, grow_scores = score(by, evidence, start), score(grow_by, evidence, start)
    for name, mask in start.items():
        grown, dropped = after[name] & ~mask, mask & ~after[name]
        kept, pruned = mask & ~dropped, ~mask & ~grown
        expected = min(int(fraction * mask.sum() + 1e-6), int((~mask).sum()))
        # as many grown as dropped, all grown were pruned before, all dropped were kept before
        assert grown.sum() == dropped.sum() == says.get(name, 0) == expected
        if expected and pruned.any():
            assert grow_scores[name][grown].min() >= grow_scores[name][pruned].max()
        if expected and kept.any():
            assert drop_scores[name][dropped].max() <= drop_scores[name][kept].min()
    assert 0 not in says.values()


@given(start=MASKS, fraction=FRACTIONS)
def test_regrow_breaks_ties_to_the_first(start: Masks, fraction: float) -> None:
    flat = {kind: {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()} for kind in ("weight", "grad")}
    pruner = regrow(criteria.magnitude, criteria.gradient, constant(fraction))
    after, says = pruner.update(start, flat, 0), pruner.grows(start, 0)
    for name, mask in start.items():
        n = says.get(name, 0)
        assert np.flatnonzero(after[name] & ~mask).tolist() == np.flatnonzero(~mask)[:n].tolist()
        assert np.flatnonzero(mask & ~after[name]).tolist() == np.flatnonzero(mask)[:n].tolist()


# refill


@by_criterion
@few
@given(start=MASKS, evidence=evidence_of_everything(), fraction=FRACTIONS, density=DENSITIES)
def test_refill_holds_what_is_not_free_and_fills_up_with_the_best_of_all_layers(
    by: Criterion, start: Masks, evidence: Evidence, fraction: float, density: float
) -> None:
    after = refill(criteria.magnitude, by, constant(fraction), constant(density)).update(start, evidence, 0)
    masks.check(after, start)
    sizes, fill = score(criteria.magnitude, evidence, start), score(by, evidence, start)
    held = {name: int(mask.sum()) - int(fraction * mask.sum()) for name, mask in start.items()}
    total = kept_count(density, sum(mask.size for mask in start.values()))
    assert masks.kept(after) == max(total, sum(held.values()))
    for name, mask in start.items():  # the largest of each layer stay
        largest = np.sort(sizes[name][mask])[::-1][: held[name]]
        assert (after[name] & mask).sum() >= held[name]
        assert sorted(sizes[name][after[name] & mask])[::-1][: held[name]] == pytest.approx(largest)
    new = np.concatenate([fill[name][after[name] & ~mask] for name, mask in start.items()])
    left = np.concatenate([fill[name][~after[name]] for name in start])
    if new.size and left.size:
        assert new.min() >= left.max()


# where and when


def a_regrow() -> Pruner:
    return regrow(criteria.magnitude, criteria.gradient, constant(0.5))


@given(
    start=MASKS,
    evidence=evidence_of_everything(),
    period=st.integers(1, 12),
    until=st.none() | st.integers(0, 60),
    step=st.integers(0, 70),
)
def test_every_acts_at_its_steps_only(
    start: Masks, evidence: Evidence, period: int, until: int | None, step: int
) -> None:
    inner = a_regrow()
    pruner = every(period, inner, until=until)
    due = step in range(period, (70 if until is None else until) + 1, period)
    assert pruner.needs == inner.needs
    assert pruner.grows(start, step) == (inner.grows(start, step) if due else {})
    assert same(
        pruner.update(start, evidence if due else {}, step), inner.update(start, evidence, step) if due else start
    )


@pytest.mark.parametrize("period", [0, -1])
def test_every_refuses_a_period_that_is_none(period: int) -> None:
    with pytest.raises(ValueError, match=f"period {period} "):
        every(period, a_regrow())


@given(start=MASKS, evidence=evidence_of_everything(), layers=st.sets(st.sampled_from(sorted(SHAPES))))
def test_within_touches_and_reads_its_layers_only(start: Masks, evidence: Evidence, layers: set[str]) -> None:
    inner = a_regrow()
    pruner = within([*layers, "a layer that is dense"], inner)
    here = {kind: {name: value for name, value in found.items() if name in layers} for kind, found in evidence.items()}
    after, everywhere = pruner.update(start, here, 1), inner.update(start, evidence, 1)
    assert list(after) == list(start)
    for name in SHAPES:
        assert np.array_equal(after[name], everywhere[name] if name in layers else start[name])
    assert pruner.grows(start, 1) == {n: c for n, c in inner.grows(start, 1).items() if n in layers}
    assert pruner.needs == inner.needs


@given(start=MASKS, evidence=evidence_of_everything(), density=DENSITIES)
def test_chain_is_one_after_the_other(start: Masks, evidence: Evidence, density: float) -> None:
    first, second = prune(criteria.random, constant(density)), a_regrow()
    chained = chain(first, second)
    assert chained.needs == {"noise", "weight", "grad"}
    assert same(chained.update(start, evidence, 1), second.update(first.update(start, evidence, 1), evidence, 1))
    assert same(chain().update(start, {}, 1), start)


@given(start=MASKS, evidence=evidence_of_everything(), step=st.integers(0, 30))
def test_chain_says_what_it_grows_where_its_parts_do_not_meet(start: Masks, evidence: Evidence, step: int) -> None:
    one, *others = SHAPES
    pruner = chain(every(2, within([one], a_regrow())), every(3, within(others, a_regrow())))
    after, says = pruner.update(start, evidence, step), pruner.grows(start, step)
    assert says == {n: c for n in SHAPES if (c := int(np.sum(after[n] & ~start[n])))}


# all of them


def every_pruner() -> dict[str, Pruner]:
    inner = a_regrow()
    return {
        "prune": prune(criteria.magnitude, constant(0.4)),
        "prune_channels": prune(criteria.magnitude, constant(0.4), across=granularity.channel, allocate=ranked()),
        "grow": grow(criteria.gradient, constant(0.9)),
        "regrow": inner,
        "every": every(1, inner),
        "within": within(SHAPES, inner),
        "chain": chain(prune(criteria.magnitude, constant(0.4)), inner),
    }


@pytest.mark.parametrize("which", every_pruner())
@few
@given(start=MASKS, evidence=evidence_of_everything())
def test_a_pruner_is_pure_and_reads_what_it_needs_alone(which: str, start: Masks, evidence: Evidence) -> None:
    pruner = every_pruner()[which]
    before = {name: mask.copy() for name, mask in start.items()}
    after = pruner.update(start, {kind: evidence[kind] for kind in pruner.needs}, 1)
    assert same(start, before)
    assert same(pruner.update(start, evidence, 1), after)
    masks.check(after, start)


@pytest.mark.parametrize("which", every_pruner())
def test_nan_is_refused(which: str) -> None:
    pruner, start = every_pruner()[which], {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
    for mask in start.values():
        mask.reshape(-1)[::2] = False
    broken = {kind: {name: np.full(shape, np.nan) for name, shape in SHAPES.items()} for kind in pruner.needs}
    with pytest.raises(ValueError, match="NaN"):
        pruner.update(start, broken, 1)


@pytest.mark.parametrize("which", every_pruner())
def test_missing_evidence_is_named(which: str) -> None:
    pruner, start = every_pruner()[which], {name: np.zeros(shape, bool) for name, shape in SHAPES.items()}
    for mask in start.values():
        mask.reshape(-1)[:2] = True
    complete = {kind: {name: np.ones(shape) for name, shape in SHAPES.items()} for kind in pruner.needs}
    lost = sorted(pruner.needs)[0]
    partial = {**complete, lost: {n: v for n, v in complete[lost].items() if n != "block.1.weight"}}
    with pytest.raises(KeyError, match=rf"no evidence '{lost}' for layer block\.1\.weight"):
        pruner.update(start, partial, 1)


@by_granularity
@few
@given(scores=evidence_of_everything(), kept=st.integers(0, 2**20))
def test_pool_and_spread_agree_on_units(across: Granularity, scores: Evidence, kept: int) -> None:
    weights = scores["weight"]
    units = across.pool(weights)
    assert list(units) == list(weights)
    rng = np.random.default_rng(kept)
    chosen = {name: rng.random(value.shape) < 0.5 for name, value in units.items()}
    spread = across.spread(chosen, {name: np.ones(shape, bool) for name, shape in SHAPES.items()})
    masks.check(spread, weights)
    back = units_of(across, spread)
    assert all(np.array_equal(back[name], chosen[name]) for name in chosen)


def test_unstructured_is_the_identity() -> None:
    scores = {"w": np.arange(6.0).reshape(2, 3)}
    assert unstructured.pool(scores) is scores
