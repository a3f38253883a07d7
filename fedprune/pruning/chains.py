"""What neighbours say of a weight: supports that cling together along rows and columns, by passing messages."""

import numpy as np

from fedprune.types import Tensor


def extrinsic(odds: Tensor, density: float, cling: float, sweeps: int = 3) -> Tensor:
    """Log-odds of each of ``odds``' shape that it is kept, by the prior and by all others' ``odds``, not by its own.

    Supports s of a layer, rows its outputs, are a field p(s) ∝ Π_i p(s_i) Π_(i,j) p(s_j | s_i) / p(s_j) over neighbours
    along rows and columns, p(s_i = 1) = ``density``: along a row alone it is a Markov chain of that density, which
    stays as it is with chance ``cling`` and is drawn anew otherwise (p01 = (1 − c) density, p10 = (1 − c)(1 −
    density)). ``odds`` are log p(data | s_i = 1) / p(data | s_i = 0). Rows and columns tell each other in turn, each
    forward and backward: exact where there is one row or one column, loopy elsewhere. ``cling`` 0 is no neighbours.

    >>> extrinsic(np.array([[0.0, 9.0, 0.0, -9.0]]), 0.5, 0.5).round(2).tolist()
    [[1.1, -0.51, 0.0, 0.51]]
    """
    prior = np.log(density) - np.log1p(-density)
    flat = odds.reshape(len(odds), -1).astype(np.float64) + prior
    rows, columns = np.zeros_like(flat), np.zeros_like(flat)
    for _ in range(sweeps if cling else 0):
        rows = _both_ways(flat + columns, density, cling)
        columns = _both_ways((flat + rows).T, density, cling).T
    return np.asarray((prior + rows + columns).reshape(odds.shape))


def _both_ways(odds: Tensor, density: float, cling: float) -> Tensor:
    """What comes to each place of every row from its left and its right."""
    forward, backward = np.zeros_like(odds), np.zeros_like(odds)
    for place in range(1, odds.shape[1]):
        forward[:, place] = _told(odds[:, place - 1] + forward[:, place - 1], density, cling)
        backward[:, -place - 1] = _told(odds[:, -place] + backward[:, -place], density, cling)
    return forward + backward


def _told(odds: Tensor, density: float, cling: float) -> Tensor:
    """Log-odds by a neighbour that is kept with these."""
    kept = sigmoid(odds)
    return np.asarray(
        np.log(1 - cling + cling * kept / density) - np.log(1 - cling + cling * (1 - kept) / (1 - density))
    )


def sigmoid(odds: Tensor) -> Tensor:
    """1 / (1 + e^(−odds)), without overflow.

    >>> sigmoid(np.array([-1e9, 0.0, np.log(3)])).tolist()
    [0.0, 0.5, 0.75]
    """
    return np.asarray(0.5 * (1 + np.tanh(0.5 * odds)))
