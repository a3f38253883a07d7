"""Laws of the joins that liars cannot move far: median, trimmed mean, and updates of a bounded norm."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.aggregation import Share, clipped, coverage_mean, coverage_median, coverage_trimmed
from fedprune.types import Params

from .test_aggregation import SEEDS, SHAPES, params, shares

TRIMS = st.floats(0, 0.499)


def assert_equal(one: Params, other: Params) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].shape == other[name].shape
        assert np.array_equal(one[name], other[name])


@given(shares(), SEEDS)
def test_trimmed_of_nothing_is_the_weighted_mean_to_the_bit(given_shares: list[Share], seed: int) -> None:
    server, trimmed = params(seed), coverage_trimmed(params(seed), given_shares, 0.0)
    assert_equal(coverage_mean(server, given_shares), trimmed)


@given(shares(), SEEDS, TRIMS, st.sampled_from([np.float16, np.float32, np.float64]))
def test_robust_joins_of_equal_updates_are_the_update(
    given_shares: list[Share], seed: int, trim: float, dtype: type
) -> None:
    same, server = params(seed, dtype), params(seed + 1, dtype)
    alike = [share._replace(params=same) for share in given_shares]
    expected = {}
    for name, value in server.items():
        owned = np.zeros(value.shape, bool)
        for share in alike:
            owned |= share.masks.get(name, True)
        expected[name] = np.where(owned, same[name], value)
    assert_equal(expected, coverage_median(server, alike))
    close = coverage_trimmed(server, alike, trim)
    for name in server:  # a weighted mean of equal values may differ in the last bit of a double
        np.testing.assert_allclose(close[name].astype(float), expected[name].astype(float), rtol=1e-15, atol=0)


@given(shares(np.float64), SEEDS)
def test_the_median_is_the_owners_whatever_weight_they_claim(given_shares: list[Share], seed: int) -> None:
    server = params(seed, np.float64)
    median = coverage_median(server, given_shares)
    for name, shape in SHAPES.items():
        for index in np.ndindex(shape):
            owners = [s.params[name][index] for s in given_shares if name not in s.masks or s.masks[name][index]]
            expected = np.median(owners) if owners else server[name][index]
            assert median[name][index] == pytest.approx(expected, rel=1e-15, abs=1e-300)


@given(SEEDS, st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 2**31), st.integers(0, 4))
def test_one_poisoned_device_of_five_leaves_the_joins_in_the_honest_range(
    seed: int, poison: float, weight: int, place: int
) -> None:
    honest = [params(seed + index) for index in range(1, 5)]
    bad = {n: np.full_like(v, poison if v.dtype.kind == "f" else 1) for n, v in params(seed).items()}
    bad["bn.num_batches_tracked"] = np.array(2**62)
    given_shares = [Share(each, {}, 10) for each in honest]
    given_shares.insert(place, Share(bad, {}, weight))
    for joined in (coverage_median(params(seed), given_shares), coverage_trimmed(params(seed), given_shares, 0.2)):
        for name, value in joined.items():
            low, high = (bound([each[name] for each in honest], axis=0) for bound in (np.min, np.max))
            assert (value >= low).all(), name
            assert (value <= high).all(), name


@given(shares(), SEEDS, TRIMS)
def test_robust_joins_stay_between_the_owners_and_leave_what_nobody_owns(
    given_shares: list[Share], seed: int, trim: float
) -> None:
    server = params(seed)
    for joined in (coverage_median(server, given_shares), coverage_trimmed(server, given_shares, trim)):
        for name, shape in SHAPES.items():
            owned = np.stack([np.broadcast_to(s.masks.get(name, np.True_), shape) for s in given_shares])
            given_values = np.stack([s.params[name] for s in given_shares])
            low = np.where(owned, given_values, np.inf).min(0)
            high = np.where(owned, given_values, -np.inf).max(0)
            inside = (joined[name] >= low) & (joined[name] <= high)
            assert np.where(owned.any(0), inside, joined[name] == server[name]).all()


def test_robust_joins_refuse_what_the_mean_refuses_and_need_somebody() -> None:
    server, bad = {"w": np.zeros(2)}, [Share({"w": np.zeros(1)}, {}, 1)]
    for join in (coverage_median, lambda server, shares: coverage_trimmed(server, shares, 0.1)):
        with pytest.raises(ValueError, match=r"shape \(1,\)"):
            join(server, bad)
        with pytest.raises(ValueError, match="weight is nan"):
            join(server, [Share({"w": np.zeros(2)}, {}, math.nan)])
        assert_equal(join(server, []), server)
        assert_equal(join(server, [Share({"w": np.ones(2)}, {}, 0)]), server)
    with pytest.raises(ValueError, match=r"trim is 0\.5"):
        coverage_trimmed(server, [], 0.5)


@given(shares(np.float64), SEEDS, st.floats(0, 50))
def test_a_clipped_update_has_at_most_the_norm_and_its_direction(
    given_shares: list[Share], seed: int, norm: float
) -> None:
    server = params(seed, np.float64)

    def update(share: Share) -> np.ndarray:
        owns = {name: share.masks.get(name, np.True_) for name in SHAPES}
        return np.concatenate([np.where(owns[n], share.params[n] - server[n], 0).ravel() for n in SHAPES])

    for share in given_shares:
        short = clipped(server, share, norm, list(SHAPES))
        before, after = update(share), update(short)
        assert np.linalg.norm(after) <= norm * (1 + 1e-9) + 1e-9
        factor = min(1.0, norm / max(np.linalg.norm(before), 1e-300))
        np.testing.assert_allclose(after, before * factor, rtol=1e-9, atol=1e-9)
        assert (short is share) == (np.linalg.norm(before) <= norm)
        assert short.masks is share.masks
        assert np.array_equal(short.params["flag"], share.params["flag"])
