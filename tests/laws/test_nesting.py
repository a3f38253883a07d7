"""Small masks are a function of a large one, an order and a number a layer; and what devices say of that order."""

import itertools
from collections.abc import Sequence

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.aggregation import Share, coverage_mean, mean_scores, votes
from fedprune.pruning import masks
from fedprune.pruning.nesting import counts, nested, with_room
from fedprune.pruning.topk import top_k
from fedprune.types import Masks, Scores

SHAPES = {"conv.weight": (3, 2, 2), "fc.weight": (2, 5), "scale": (1,)}
SEEDS = st.integers(0, 2**32)
WEIGHTS = st.integers(1, 5000)
KINDS = st.sampled_from(["normal", "ties", "zeros"])

Proposal = tuple[Scores, Masks, float]


def scores(seed: int, kind: str = "normal") -> Scores:
    """Scores without ties, with many, or all equal."""
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return {name: rng.integers(0, 3 if kind == "ties" else 1, shape).astype(float) for name, shape in SHAPES.items()}


@st.composite
def some_masks(draw: st.DrawFn) -> Masks:
    return {name: draw(hnp.arrays(bool, shape)) for name, shape in SHAPES.items()}


@st.composite
def some_counts(draw: st.DrawFn) -> dict[str, int]:
    """From nothing to more than a layer has."""
    return {name: draw(st.integers(0, int(np.prod(shape)) + 2)) for name, shape in SHAPES.items()}


# masks


@given(SEEDS, KINDS, some_counts(), some_masks())
def test_as_many_as_asked_for_or_all_there_are_and_nested(
    seed: int, kind: str, wanted: dict[str, int], within: Masks
) -> None:
    small = nested(scores(seed, kind), wanted, within)
    masks.check(small, {name: np.zeros(shape) for name, shape in SHAPES.items()})
    assert masks.nested(small, within)
    assert counts(small) == {name: min(wanted[name], counts(within)[name]) for name in SHAPES}


@given(SEEDS, KINDS, some_counts(), some_masks())
def test_what_is_kept_is_the_best_of_what_there_is(seed: int, kind: str, wanted: dict[str, int], within: Masks) -> None:
    order = scores(seed, kind)
    for name, mask in nested(order, wanted, within).items():
        kept, left = order[name][mask], order[name][within[name] & ~mask]
        assert not kept.size or not left.size or kept.min() >= left.max()


@given(SEEDS, KINDS, st.lists(some_counts(), min_size=2, max_size=5), some_masks())
def test_ascending_counts_in_one_order_nest_in_each_other(
    seed: int, kind: str, asked: list[dict[str, int]], within: Masks
) -> None:
    order = scores(seed, kind)
    ascending = [{name: sorted(each[name] for each in asked)[i] for name in SHAPES} for i in range(len(asked))]
    found = [nested(order, each, within) for each in ascending]
    assert all(masks.nested(small, large) for small, large in itertools.pairwise(found))
    # and it is all the same whether a mask is drawn from the largest or from the next larger one
    down = within
    for each, at_once in zip(ascending[::-1], found[::-1], strict=True):
        down = nested(order, each, down)
        assert masks.equal(down, at_once)


@given(SEEDS, some_counts(), some_masks(), st.floats(0.1, 100))
def test_the_order_alone_decides(seed: int, wanted: dict[str, int], within: Masks, scale: float) -> None:
    order = scores(seed)
    before = {name: value.copy() for name, value in order.items()}
    first = nested(order, wanted, within)
    assert masks.equal(first, nested(order, wanted, within))
    assert masks.equal(first, nested({name: np.exp(value) * scale for name, value in order.items()}, wanted, within))
    # neither what lies outside, nor another layer, nor an argument changed on the way
    outside = {name: np.where(within[name], value, 1e9) for name, value in order.items()}
    assert masks.equal(first, nested(outside, wanted, within))
    for name in SHAPES:
        alone = nested({name: order[name]}, {name: wanted[name]}, {name: within[name]})
        assert np.array_equal(alone[name], first[name])
    assert all(np.array_equal(before[name], order[name]) for name in SHAPES)


@given(SEEDS, some_counts())
def test_within_everything_it_is_the_top_k(seed: int, wanted: dict[str, int]) -> None:
    order, all_of_it = scores(seed, "ties"), masks.ones_like(SHAPES)
    small = nested(order, wanted, all_of_it)
    assert all(np.array_equal(small[n], top_k(order[n], min(wanted[n], order[n].size))) for n in SHAPES)


@given(some_masks(), some_masks(), some_counts())
def test_a_position_that_is_never_preferred_comes_last(within: Masks, known: Masks, wanted: dict[str, int]) -> None:
    order = {name: np.where(mask, 0.0, -np.inf) for name, mask in known.items()}
    small = nested(order, wanted, within)
    assert counts(small) == {name: min(wanted[name], counts(within)[name]) for name in SHAPES}
    for name, mask in small.items():
        assert not (mask & ~known[name]).any() or mask[within[name] & known[name]].all()


@given(some_counts(), some_masks())
def test_what_a_layer_has_no_room_for_goes_to_others(wanted: dict[str, int], within: Masks) -> None:
    room = counts(within)
    found = with_room(wanted, room)
    assert list(found) == list(wanted)
    assert sum(found.values()) == min(sum(wanted.values()), sum(room.values()))
    assert all(min(wanted[name], room[name]) <= count <= room[name] for name, count in found.items())


@pytest.mark.parametrize("missing", ["scores", "within"])
def test_a_layer_without_an_order_or_a_mask_is_named(missing: str) -> None:
    order, within = {"a": np.ones(2)}, {"a": np.ones(2, bool)}
    with pytest.raises(KeyError, match="a"):
        nested({} if missing == "scores" else order, {"a": 1}, {} if missing == "within" else within)


# what devices say


@st.composite
def proposals(draw: st.DrawFn, owned_by: st.SearchStrategy[bool] | None = None) -> list[Proposal]:
    """Devices with scores, what they own, and how many examples are behind it."""
    owns = [some_masks(), st.just({})] if owned_by is None else [st.just(masks.ones_like(SHAPES)), st.just({})]
    size = draw(st.integers(1, 5))
    return [(scores(draw(SEEDS)), draw(st.one_of(owns)), float(draw(WEIGHTS))) for _ in range(size)]


def owners(asked: Sequence[tuple[object, Masks, float]], name: str) -> np.ndarray:
    """How much weight owns each position."""
    total = np.zeros(SHAPES[name])
    for _, owns, weight in asked:
        total = total + np.where(owns.get(name, np.True_), weight, 0.0)
    return total


@given(proposals(st.just(True)))
def test_devices_that_own_all_give_the_plain_weighted_mean(asked: list[Proposal]) -> None:
    weights = [weight for _, _, weight in asked]
    for name, value in mean_scores(asked).items():
        plain = np.average([order[name] for order, _, _ in asked], axis=0, weights=weights)
        np.testing.assert_allclose(value, plain, rtol=1e-9, atol=1e-12)


@given(SEEDS, st.lists(st.tuples(some_masks(), WEIGHTS), min_size=1, max_size=5))
def test_equal_devices_say_what_one_says(seed: int, devices: list[tuple[Masks, int]]) -> None:
    order = scores(seed)
    asked = [(order, owns, float(weight)) for owns, weight in devices]
    for name, value in mean_scores(asked).items():
        someone = owners(asked, name) > 0
        np.testing.assert_allclose(value[someone], order[name][someone], rtol=1e-12)
        assert np.isneginf(value[~someone]).all()


@given(proposals())
def test_a_position_is_scored_by_its_owners_and_one_that_nobody_owns_never_preferred(asked: list[Proposal]) -> None:
    for name, value in mean_scores(asked).items():
        assert value.shape == SHAPES[name]
        assert value.dtype == np.float64
        for index in np.ndindex(SHAPES[name]):
            mine = [(o[name][index], w) for o, owns, w in asked if name not in owns or owns[name][index]]
            if mine:
                said, weights = zip(*mine, strict=True)
                assert value[index] == pytest.approx(np.average(said, weights=weights), rel=1e-9, abs=1e-12)
            else:
                assert value[index] == -np.inf


@given(proposals(), st.permutations(range(5)))
def test_the_order_of_devices_does_not_count(asked: list[Proposal], order: list[int]) -> None:
    shuffled = [asked[i] for i in order if i < len(asked)]
    ballots = [({n: v > 0 for n, v in said.items()}, owns, weight) for said, owns, weight in asked]
    mixed = [ballots[i] for i in order if i < len(ballots)]
    for one, other in ((mean_scores(asked), mean_scores(shuffled)), (votes(ballots), votes(mixed))):
        for name in SHAPES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12, atol=1e-12)


@given(proposals(), some_counts())
def test_votes_are_shares_of_the_owners(asked: list[Proposal], wanted: dict[str, int]) -> None:
    everything = masks.ones_like(SHAPES)
    ballots = [(nested(said, wanted, {**everything, **owns}), owns, weight) for said, owns, weight in asked]
    for name, share in votes(ballots).items():
        total = owners(ballots, name)
        assert np.isneginf(share[total == 0]).all()
        assert ((share[total > 0] >= 0) & (share[total > 0] <= 1 + 1e-12)).all()
        kept = sum(np.where(kept[name], weight, 0.0) for kept, _, weight in ballots)  # nobody votes for what it lacks
        np.testing.assert_allclose(share[total > 0], (kept / np.where(total, total, 1))[total > 0], rtol=1e-12)


@given(proposals(st.just(True)), some_counts())
def test_a_vote_of_all_is_one_and_decides(asked: list[Proposal], wanted: dict[str, int]) -> None:
    same = [(asked[0][0], owns, weight) for _, owns, weight in asked]
    ballots = [(nested(said, wanted, masks.ones_like(SHAPES)), owns, weight) for said, owns, weight in same]
    shares = votes(ballots)
    assert masks.equal(nested(shares, wanted, masks.ones_like(SHAPES)), ballots[0][0])


def test_nobody_says_nothing() -> None:
    assert mean_scores([]) == {}
    assert votes([]) == {}


@given(SEEDS, st.lists(st.tuples(SEEDS, some_masks(), WEIGHTS), max_size=4))
def test_a_position_that_nobody_owns_keeps_the_servers_value(seed: int, devices: list[tuple[int, Masks, int]]) -> None:
    server = {name: value.astype(np.float32) for name, value in scores(seed).items()}
    shares = [
        Share({n: v.astype(np.float32) for n, v in scores(s).items()}, owns, weight) for s, owns, weight in devices
    ]
    mean = coverage_mean(server, shares)
    for name, shape in SHAPES.items():
        owned = np.zeros(shape, bool)
        for _, owns, _ in devices:
            owned |= owns[name]
        assert mean[name][~owned].tobytes() == server[name][~owned].tobytes()
