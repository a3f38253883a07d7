"""Laws of the one top-k: an exact count, the largest, ties to the first, NaN refused."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.pruning.topk import kept_count, top_k

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
# Few values, so that ties are the rule; both infinities among them.
TIED = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 2.0, np.inf])
SCORES = hnp.arrays(np.float32, SHAPES, elements=TIED) | hnp.arrays(
    np.float64, SHAPES, elements=st.floats(allow_nan=False)
)


@given(SCORES, st.data())
def test_exactly_k_the_largest_ties_to_the_first(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, scores.size))
    flat = scores.reshape(-1).tolist()
    expected = sorted(range(scores.size), key=lambda i: (-flat[i], i))[:k]

    mask = top_k(scores, k)

    assert mask.shape == scores.shape
    assert mask.dtype == np.bool_
    assert np.flatnonzero(mask).tolist() == sorted(expected)


@given(SCORES, st.data())
def test_the_order_in_memory_does_not_count(scores: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, scores.size))
    assert np.array_equal(top_k(np.asfortranarray(scores), k), top_k(scores, k))


@given(SCORES, st.data())
def test_a_larger_k_keeps_what_a_smaller_one_keeps(scores: np.ndarray, data: st.DataObject) -> None:
    small, large = sorted(data.draw(st.tuples(*[st.integers(0, scores.size)] * 2)))
    assert not np.any(top_k(scores, small) & ~top_k(scores, large))


@given(SCORES, st.data())
def test_nan_is_refused_whatever_is_kept(scores: np.ndarray, data: st.DataObject) -> None:
    scores.flat[data.draw(st.integers(0, scores.size - 1))] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k(scores, data.draw(st.integers(0, scores.size)))


@pytest.mark.parametrize("k", [-1, 7])
def test_a_count_that_cannot_be_kept_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {k} of 6"):
        top_k(np.zeros((2, 3)), k)


@pytest.mark.filterwarnings("error")
def test_opposite_infinities_give_no_warning() -> None:
    assert top_k(np.array([-np.inf, np.inf, 1.0]), 1).tolist() == [False, True, False]


def test_the_scores_are_left_alone() -> None:
    scores = np.array([3.0, 1.0, 2.0])
    top_k(scores, 1)
    assert scores.tolist() == [3.0, 1.0, 2.0]


@given(st.integers(1, 10**6), st.data())
def test_a_fraction_of_whole_positions_keeps_exactly_these(size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, size))
    assert kept_count(count / size, size) == count


@given(st.floats(0, 1), st.integers(1, 10**5))
def test_a_density_keeps_its_floor_but_at_least_one(density: float, size: int) -> None:
    kept = kept_count(density, size)
    assert kept <= size
    assert (kept > 0) == (density > 0)
    assert -1e-3 <= density * size - kept < 1 or kept == 1


@pytest.mark.parametrize(
    ("density", "size", "kept"),
    [(0.0, 9, 0), (1e-12, 9, 1), (0.29, 100, 29), (0.5, 7, 3), (1.0, 7, 7), (0.999, 7, 6), (0.3, 0, 0)],
)
def test_kept_counts_worked_by_hand(density: float, size: int, kept: int) -> None:
    assert kept_count(density, size) == kept
    assert type(kept_count(density, size)) is int  # it travels as a number, not as true


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        kept_count(density, 10)
