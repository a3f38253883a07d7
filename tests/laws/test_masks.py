"""Laws of masks: their algebra, where a parameter without a mask is dense, and what they do to parameters."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.pruning import masks
from fedprune.types import Masks

SHAPES = {"a": (2, 3), "b": (4,), "c": (1, 2, 2)}


def some_masks() -> st.SearchStrategy[Masks]:
    """Masks of some of the parameters; the others are dense."""
    return st.fixed_dictionaries({}, optional={name: hnp.arrays(bool, shape) for name, shape in SHAPES.items()})


def dense(given: Masks) -> Masks:
    """The same masks, with what is left out spelled out."""
    return {**masks.ones_like(SHAPES), **given}


@given(some_masks(), some_masks())
def test_intersect_and_union_are_set_operations(a: Masks, b: Masks) -> None:
    full_a, full_b = dense(a), dense(b)
    both, either = dense(masks.intersect(a, b)), dense(masks.union(a, b))
    for name in SHAPES:
        assert np.array_equal(both[name], np.logical_and(full_a[name], full_b[name]))
        assert np.array_equal(either[name], np.logical_or(full_a[name], full_b[name]))


@given(some_masks(), some_masks(), some_masks())
def test_the_algebra_is_that_of_sets(a: Masks, b: Masks, c: Masks) -> None:
    for join in (masks.intersect, masks.union):
        assert masks.equal(join(a, a), a)
        assert masks.equal(join(a, b), join(b, a))
        assert masks.equal(join(a, join(b, c)), join(join(a, b), c))
    assert masks.equal(dense(masks.union(a, masks.intersect(a, b))), dense(a))


@given(some_masks(), some_masks())
def test_nested_is_the_order_of_intersect_and_union(a: Masks, b: Masks) -> None:
    assert masks.nested(masks.intersect(a, b), a)
    assert masks.nested(a, masks.union(a, b))
    assert masks.nested(a, b) == masks.equal(dense(masks.intersect(a, b)), dense(a))


def test_dense_is_not_nested_in_a_mask_that_prunes() -> None:
    half = {"b": np.array([True, True, False, False])}
    assert not masks.nested({}, half)
    assert masks.nested(half, {})


@given(some_masks())
def test_counts_and_densities_agree(given_masks: Masks) -> None:
    size = sum(mask.size for mask in given_masks.values())
    ones = sum(mask.tolist().count(True) if mask.ndim == 1 else int(mask.sum()) for mask in given_masks.values())
    assert masks.kept(given_masks) == ones
    assert masks.density(given_masks) == (ones / size if size else 1.0)
    per_layer = masks.densities(given_masks)
    assert sum(per_layer[name] * mask.size for name, mask in given_masks.items()) == pytest.approx(ones)

    params = {name: np.zeros(shape) for name, shape in SHAPES.items()} | {"bias": np.zeros(3)}
    dense_size = 6 + 4 + 4 + 3
    assert masks.density_all(params, given_masks) == pytest.approx((dense_size - size + ones) / dense_size)


def test_nothing_masked_is_dense() -> None:
    assert masks.density({}) == 1.0
    assert masks.density_all({}, {}) == 1.0


@given(some_masks(), st.sampled_from([np.float32, np.float64, np.int64]))
def test_apply_zeroes_the_pruned_and_passes_the_rest(given_masks: Masks, dtype: type) -> None:
    params = {name: np.arange(1, 1 + np.prod(shape)).reshape(shape).astype(dtype) for name, shape in SHAPES.items()}
    applied = masks.apply(params, given_masks)
    assert list(applied) == list(params)
    for name, value in params.items():
        mask = dense(given_masks)[name]
        assert applied[name].dtype == dtype
        assert np.array_equal(applied[name][mask], value[mask])
        assert not applied[name][~mask].any()
    assert masks.equal(params, {n: np.arange(1, 1 + np.prod(s)).reshape(s) for n, s in SHAPES.items()})  # untouched


def test_apply_gives_plus_zero_for_anything() -> None:
    values = np.array([np.nan, np.inf, -1.0, -0.0], np.float32)
    (pruned,) = masks.apply({"w": values}, {"w": np.zeros(4, bool)}).values()
    assert pruned.tobytes() == bytes(16)


@pytest.mark.parametrize(
    ("given_masks", "message"),
    [
        ({"w": np.ones((2, 2), bool), "x": np.ones(1, bool)}, "mask x: the model has no such parameter"),
        ({"w": np.ones((2, 2))}, "mask w: expected booleans, got float64"),
        ({"w": [[True, True], [True, True]]}, "mask w: expected booleans, got list"),
        ({"w": np.ones((4,), bool)}, r"mask w: shape \(4,\), its parameter has \(2, 2\)"),
    ],
)
def test_check_names_the_culprit(given_masks: Masks, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        masks.check(given_masks, {"w": np.zeros((2, 2))})


def test_check_lets_right_masks_pass() -> None:
    masks.check({"w": np.ones((2, 2), bool)}, {"w": np.zeros((2, 2)), "b": np.zeros(2)})
    assert not masks.equal({"w": np.ones(2, bool)}, {"v": np.ones(2, bool)})
    assert not masks.equal({"w": np.array([True, False])}, {"w": np.array([False, True])})
