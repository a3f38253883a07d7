"""Laws of aggregation: what devices send is joined exactly, over whoever owns it, in whatever order it comes."""

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedprune.aggregation import Share, coverage_mean, mean_of_variances, merge_counts, merge_top_k, pooled
from fedprune.pruning.topk import top_k
from fedprune.types import Moments, Params, TopK

SHAPES = {"conv.weight": (3, 2, 2), "conv.bias": (3,), "scale": ()}
WEIGHTS = st.integers(1, 5000)
SEEDS = st.integers(0, 2**32)


def params(seed: int, dtype: type = np.float32) -> Params:
    rng = np.random.default_rng(seed)
    floats = {name: np.asarray(rng.normal(scale=3, size=shape), dtype=dtype) for name, shape in SHAPES.items()}
    return {**floats, "bn.num_batches_tracked": np.array(rng.integers(0, 1000)), "flag": rng.random(2) < 0.5}


@st.composite
def shares(draw: st.DrawFn, dtype: type = np.float32) -> list[Share]:
    """Devices that own parts of conv.weight and of the scalar, and all of the rest."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        owned = {"conv.weight": draw(hnp.arrays(bool, (3, 2, 2))), "scale": np.array(draw(st.booleans()))}
        owned = {} if draw(st.booleans()) else owned
        found.append(Share(params(draw(SEEDS), dtype), owned, draw(WEIGHTS)))
    return found


@given(shares(np.float64), SEEDS)
def test_a_position_is_averaged_over_its_owners(given_shares: list[Share], seed: int) -> None:
    server = params(seed, np.float64)
    mean = coverage_mean(server, given_shares)
    assert list(mean) == list(server)
    for name, shape in SHAPES.items():
        for index in np.ndindex(shape):
            owners = [s for s in given_shares if name not in s.masks or s.masks[name][index]]
            total = sum(share.weight for share in owners)
            expected = math.fsum(s.params[name][index] * s.weight / total for s in owners) if owners else None
            if expected is None:
                assert mean[name][index] == server[name][index]
            else:
                assert mean[name][index] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(st.lists(st.tuples(SEEDS, WEIGHTS), min_size=1, max_size=5), SEEDS)
def test_dense_devices_give_fedavg(devices: list[tuple[int, int]], seed: int) -> None:
    mean = coverage_mean(params(seed), [Share(params(s), {}, weight) for s, weight in devices])
    total = sum(weight for _, weight in devices)
    for name in SHAPES:
        fedavg = sum(weight / total * params(s)[name].astype(np.float64) for s, weight in devices)
        assert mean[name].dtype == np.float32
        np.testing.assert_allclose(mean[name], fedavg, rtol=1e-7, atol=1e-7)


@given(shares(), SEEDS)
def test_masks_that_own_everything_change_nothing(given_shares: list[Share], seed: int) -> None:
    whole = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
    dense = coverage_mean(params(seed), [Share(s.params, {}, s.weight) for s in given_shares])
    owned = coverage_mean(params(seed), [Share(s.params, whole, s.weight) for s in given_shares])
    for name in SHAPES:
        np.testing.assert_allclose(owned[name], dense[name], rtol=1e-6)


@given(shares(), SEEDS, st.sampled_from([np.float16, np.float32]))
def test_equal_devices_give_their_value_exactly(given_shares: list[Share], seed: int, dtype: type) -> None:
    same, server = params(seed, dtype), params(seed + 1, dtype)
    mean = coverage_mean(server, [Share(same, share.masks, share.weight) for share in given_shares])
    for name, shape in SHAPES.items():
        owned = np.zeros(shape, bool)
        for share in given_shares:
            owned |= share.masks.get(name, True)
        assert mean[name].dtype == dtype
        assert np.array_equal(mean[name], np.where(owned, same[name], server[name]))


@given(shares(np.float64), SEEDS, st.randoms())
def test_the_order_of_replies_does_not_count(given_shares: list[Share], seed: int, random: object) -> None:
    shuffled = list(given_shares)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    server = params(seed, np.float64)
    one, other = coverage_mean(server, given_shares), coverage_mean(server, shuffled)
    for name in one:
        np.testing.assert_allclose(one[name].astype(float), other[name].astype(float), rtol=1e-12, atol=1e-12)


@given(shares(), SEEDS)
def test_counters_and_flags_keep_their_type_and_take_the_largest(given_shares: list[Share], seed: int) -> None:
    server = params(seed)
    mean = coverage_mean(server, given_shares)
    for name in ("bn.num_batches_tracked", "flag"):
        assert isinstance(mean[name], np.ndarray)
        assert mean[name].dtype == server[name].dtype
        assert np.array_equal(mean[name], np.max([share.params[name] for share in given_shares], axis=0))


@given(shares(), SEEDS)
def test_a_device_without_weight_and_one_without_ownership_do_not_count(given_shares: list[Share], seed: int) -> None:
    server, noise = params(seed), params(seed + 1)
    broken = {name: np.full_like(value, np.nan) if value.dtype.kind == "f" else value for name, value in noise.items()}
    silent = Share(broken, {}, 0)
    nothing = {name: np.zeros(shape, bool) for name, shape in SHAPES.items()}
    owns_nothing = Share({**broken, **{n: server[n] for n in ("flag", "bn.num_batches_tracked")}}, nothing, 7)
    alone, together = (coverage_mean(server, s) for s in (given_shares, [silent, *given_shares, owns_nothing]))
    for name in SHAPES:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-6)


def test_nobody_leaves_the_servers_model() -> None:
    server = params(0)
    for replies in ([], [Share(params(1), {}, 0)]):
        mean = coverage_mean(server, replies)
        assert all(np.array_equal(mean[name], server[name]) for name in server)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        coverage_mean({"w": np.zeros(2)}, [Share({"w": np.zeros(2)}, {}, weight)])


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (Share({"v": np.zeros(2)}, {}, 1), r"names differ .*'v', 'w'"),
        (Share({"w": np.zeros(3)}, {}, 1), r"w: a share has shape \(3,\)"),
        (Share({"w": np.zeros(2)}, {"w": np.ones((1, 2), bool)}, 1), r"w: a share's mask has shape \(1, 2\)"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(share: Share, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coverage_mean({"w": np.zeros(2)}, [share])


# statistics


def some_moments(seed: int, sizes: list[int], channels: int = 3) -> tuple[list[np.ndarray], list[Moments]]:
    rng = np.random.default_rng(seed)
    data = [rng.normal(rng.normal(scale=5), 1 + rng.random(), (size, channels)) for size in sizes]
    return data, [Moments(part.mean(0), part.var(0), len(part)) for part in data]


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@given(SEEDS, SIZES)
def test_pooled_moments_are_those_of_the_data_together(seed: int, sizes: list[int]) -> None:
    data, parts = some_moments(seed, sizes)
    together, merged = np.concatenate(data), pooled(parts)
    assert merged.examples == len(together)
    np.testing.assert_allclose(merged.mean, together.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(merged.variance, together.var(0), rtol=1e-9, atol=1e-9)


@given(SEEDS, SIZES)
def test_pooling_can_be_done_in_stages(seed: int, sizes: list[int]) -> None:
    assume(len(sizes) > 1)
    _, parts = some_moments(seed, sizes)
    staged, at_once = pooled([pooled(parts[:1]), pooled(parts[1:])]), pooled(parts)
    np.testing.assert_allclose(staged.mean, at_once.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(staged.variance, at_once.variance, rtol=1e-9, atol=1e-9)


@given(SEEDS, SIZES)
def test_the_papers_variance_is_the_weighted_mean_and_never_above_the_pooled(seed: int, sizes: list[int]) -> None:
    _, parts = some_moments(seed, sizes)
    merged, exact = mean_of_variances(parts), pooled(parts)
    weights = np.array(sizes) / sum(sizes)
    np.testing.assert_allclose(merged.mean, np.average([p.mean for p in parts], axis=0, weights=weights))
    np.testing.assert_allclose(merged.variance, np.average([p.variance for p in parts], axis=0, weights=weights))
    assert merged.examples == sum(sizes)
    assert (merged.variance <= exact.variance + 1e-12).all()


@pytest.mark.parametrize("merge", [mean_of_variances, pooled])
@given(seed=SEEDS, sizes=SIZES)
def test_a_device_without_examples_does_not_count(merge: object, seed: int, sizes: list[int]) -> None:
    _, parts = some_moments(seed, sizes)
    empty = Moments(np.full(3, 1e6), np.full(3, 1e6), 0)
    one, other = merge(parts), merge([empty, *parts])  # type: ignore[operator]
    np.testing.assert_allclose(one.mean, other.mean)
    np.testing.assert_allclose(one.variance, other.variance)


@pytest.mark.parametrize("merge", [mean_of_variances, pooled])
@pytest.mark.parametrize("parts", [[], [Moments(np.zeros(1), np.ones(1), 0)]])
def test_statistics_without_examples_are_refused(merge: object, parts: list[Moments]) -> None:
    with pytest.raises(ValueError, match="no examples"):
        merge(parts)  # type: ignore[operator]


# lists


@given(SEEDS, st.lists(st.tuples(WEIGHTS, st.integers(0, 12)), min_size=1, max_size=5))
def test_merged_lists_are_the_weighted_mean_of_sparse_gradients(seed: int, devices: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    lists, total = [], sum(weight for weight, _ in devices)
    expected = np.zeros((3, 4))
    for weight, count in devices:
        grad = rng.normal(size=(3, 4)).astype(np.float32)
        sent = top_k(np.abs(grad), count)
        at = rng.permutation(np.flatnonzero(sent))  # the order within a list does not count
        lists.append((TopK(at, grad.reshape(-1)[at]), float(weight)))
        expected += np.where(sent, grad, 0).astype(np.float64) * weight / total
    merged = merge_top_k(lists, (3, 4))
    assert merged.dtype == np.float64
    np.testing.assert_allclose(merged, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merge_top_k(lists[::-1], (3, 4)), merged, rtol=1e-12, atol=1e-12)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9))))
def test_counts_add_up(parts: list[dict[str, int]]) -> None:
    merged = merge_counts(parts)
    assert merged == {name: sum(p[name] for p in parts if name in p) for name in {n for p in parts for n in p}}
