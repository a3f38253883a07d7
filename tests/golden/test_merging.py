"""Golden values of what the server merges, each worked by hand."""

import numpy as np

from fedprune.aggregation import Share, coverage_mean, mean_of_variances, merge_counts, merge_top_k, pooled
from fedprune.types import Moments, TopK


def test_coverage_mean_with_partial_owners() -> None:
    server = {"w": np.array([10.0, 20.0, 30.0, 40.0]), "b": np.array([1.0]), "n": np.array(3)}
    first = Share(
        {"w": np.array([1.0, 2.0, 3.0, 4.0]), "b": np.array([2.0]), "n": np.array(7)},
        {"w": np.array([True, True, False, False])},
        1,
    )
    second = Share(
        {"w": np.array([5.0, 6.0, 7.0, 8.0]), "b": np.array([6.0]), "n": np.array(5)},
        {"w": np.array([False, True, True, False])},
        3,
    )
    mean = coverage_mean(server, [first, second])
    # only the first; (2 + 3 · 6)/4; only the second; nobody
    assert mean["w"].tolist() == [1.0, 5.0, 7.0, 40.0]
    assert mean["b"].tolist() == [5.0]
    assert mean["n"].tolist() == 7


def test_batch_norm_statistics_of_three_devices() -> None:
    parts = [
        Moments(np.array([0.0]), np.array([1.0]), 10),
        Moments(np.array([4.0]), np.array([3.0]), 30),
        Moments(np.array([-2.0]), np.array([2.0]), 10),
    ]
    # μ = (0 + 120 − 20)/50; σ² = (10 + 90 + 20)/50
    paper = mean_of_variances(parts)
    assert (paper.mean.tolist(), paper.variance.tolist(), paper.examples) == ([2.0], [2.4], 50)
    # between: 0.2 · 2² + 0.6 · 2² + 0.2 · 4² = 6.4
    exact = pooled(parts)
    np.testing.assert_allclose(exact.variance, [8.8])
    assert (exact.mean.tolist(), exact.examples) == ([2.0], 50)


def test_lists_weighted_by_examples() -> None:
    # λ = 1/4, 3/4; a missing index counts 0
    lists = [
        (TopK(np.array([0, 3]), np.array([8.0, -4.0])), 10.0),
        (TopK(np.array([3, 1]), np.array([4.0, 2.0])), 30.0),
    ]
    assert merge_top_k(lists, (2, 2)).tolist() == [[2.0, 1.5], [0.0, 2.0]]
    assert merge_top_k([(TopK(np.array([], np.int64), np.array([])), 1.0)], (2,)).tolist() == [0.0, 0.0]


def test_counts() -> None:
    assert merge_counts([{"a": 1}, {"b": 2, "a": 3}, {}]) == {"a": 4, "b": 2}
