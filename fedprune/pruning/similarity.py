"""How alike two views of the same examples are, from sums of products alone, which add up."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedprune.types import Tensor


class Products(NamedTuple):
    """Of rows x of one matrix and rows y of another: means, and sums of products of what is left without them."""

    means: Tensor
    """(2, features)"""
    sums: Tensor
    """(3, features, features): Σ xxᵀ, Σ yyᵀ and Σ xyᵀ, all centred."""
    rows: int


def products(x: Tensor, y: Tensor) -> Products:
    """Of two matrices (rows, features).

    >>> found = products(np.array([[1.0], [3.0]]), np.array([[0.0], [4.0]]))
    >>> found.means.tolist(), found.sums.ravel().tolist()
    ([[2.0], [2.0]], [2.0, 8.0, 4.0])
    """
    means = np.stack([x.mean(0), y.mean(0)]) if len(x) else np.zeros((2, x.shape[1]))
    a, b = x - means[0], y - means[1]
    return Products(means, np.stack([a.T @ a, b.T @ b, a.T @ b]), len(x))


def joined(parts: Sequence[Products]) -> Products:
    """Those of all rows together, exactly: each part's sums, and those of its means about the mean of all.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 9, 3))
    >>> whole, halves = products(x, y), joined([products(x[:4], y[:4]), products(x[4:], y[4:])])
    >>> np.allclose(whole.sums, halves.sums), halves.rows
    (True, 9)
    """
    rows = sum(part.rows for part in parts)
    means = np.asarray(sum(part.means * (part.rows / rows) for part in parts))
    sums = np.zeros(parts[0].sums.shape)
    for part in parts:
        a, b = part.means - means
        sums += part.sums + part.rows * np.stack([np.outer(a, a), np.outer(b, b), np.outer(a, b)])
    return Products(means, sums, rows)


def cka(of: Products) -> float:
    """‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), X and Y centred: linear CKA, 1 where Y is X turned or scaled (Kornblith et al., 2019).

    It is 0 where one of them is constant.

    >>> rng = np.random.default_rng(0)
    >>> x, turn = rng.normal(size=(50, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    >>> round(cka(products(x, 2 * x @ turn)), 9), cka(products(x, 0 * x))
    (1.0, 0.0)
    """
    own, other, both = (float(np.linalg.norm(each)) for each in of.sums)
    return both**2 / (own * other) if own * other > 0 else 0.0
