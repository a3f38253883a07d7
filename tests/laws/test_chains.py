"""What neighbours say of a weight, against every support there is."""

import itertools
import math

import numpy as np
import pytest

from fedprune.pruning.chains import extrinsic
from fedprune.types import Tensor


def brute(odds: Tensor, density: float, cling: float) -> Tensor:
    """Log-odds of each place given all others' odds, by the sum over all supports."""
    chance = {(a, b): (1 - cling) * (density, 1 - density)[not b] + cling * (a == b) for a in (0, 1) for b in (0, 1)}
    alone = (1 - density, density)
    total = np.zeros((2, *odds.shape))
    for each in itertools.product((0, 1), repeat=odds.size):
        s = np.reshape(each, odds.shape)
        log = float((odds * s).sum()) + sum(math.log(alone[k]) for k in each)
        pairs = [*zip(s[:, :-1].flat, s[:, 1:].flat, strict=True), *zip(s[:-1].flat, s[1:].flat, strict=True)]
        log += sum(math.log(chance[a, b] / alone[b]) for a, b in pairs)
        np.put_along_axis(total, s[None], np.take_along_axis(total, s[None], 0) + math.exp(log), 0)
    return np.asarray(np.log(total[1] / total[0]) - odds)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (1, 1)])
@pytest.mark.parametrize(("density", "cling"), [(0.1, 0.7), (0.5, 0.3), (0.8, 0.05), (0.3, 0.0)])
def test_along_one_row_or_column_it_is_exact(shape: tuple[int, int], density: float, cling: float) -> None:
    for seed in range(3):
        odds = np.random.default_rng(seed).normal(0, 3, shape)
        np.testing.assert_allclose(extrinsic(odds, density, cling), brute(odds, density, cling), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("cling", "far"), [(0.1, 0.001), (0.3, 0.01)])
def test_on_a_grid_it_is_close(cling: float, far: float) -> None:
    """Of chances that a place is kept, three grids of 3 × 4, density 0.2."""
    for seed in range(3):
        odds = np.random.default_rng(seed).normal(0, 3, (3, 4))
        ours, exact = (1 / (1 + np.exp(-odds - each(odds, 0.2, cling))) for each in (extrinsic, brute))
        assert np.abs(ours - exact).max() < far


def test_a_kernel_is_part_of_its_row_and_extremes_are_finite() -> None:
    odds = np.random.default_rng(1).normal(0, 3, (2, 3, 2, 2))
    assert np.array_equal(extrinsic(odds, 0.3, 0.4).reshape(2, 12), extrinsic(odds.reshape(2, 12), 0.3, 0.4))
    assert np.isfinite(extrinsic(np.array([[1e9, -1e9, 1e9, 0.0]]), 1e-3, 0.9)).all()
