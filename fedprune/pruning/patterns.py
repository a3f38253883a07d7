"""N:M: of every M weights in a row of inputs at most N stay, so that a position costs log₂ M bits and no search."""

import numpy as np

from fedprune.types import BoolTensor, Tensor


def n_of_m(scores: Tensor, n: int, m: int) -> BoolTensor:
    """The ``n`` best of every ``m``; ties to the first.

    Groups are along the second axis, the inputs of an output, at each place of a kernel; the last may be shorter, and
    keeps no more than the others. ValueError where not 0 < n < m, or scores have no second axis.

    >>> n_of_m(np.array([[1.0, 4.0, 3.0, 2.0, 5.0, 6.0]]), 1, 4).tolist()
    [[False, True, False, False, False, True]]
    """
    groups = _groups(scores, n, m)
    mask = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(mask, np.argsort(-groups, axis=1, kind="stable")[:, :n], True, axis=1)
    return np.ascontiguousarray(_spread(mask, scores.shape))


def few_of(density: float, m: int) -> int:
    """N of the pattern that keeps ``density`` of every ``m``; 0 where no N:M does.

    >>> few_of(0.25, 8), few_of(0.3, 4), few_of(1.0, 4)
    (2, 0, 0)
    """
    n = round(density * m)
    return n if 0 < n < m and abs(n - density * m) <= 1e-6 else 0


def halfway(sizes: Tensor, n: int, m: int) -> Tensor:
    """Of the shape of ``sizes``: half-way between the n-th and the next largest of a weight's group; 0 if none is next.

    >>> halfway(np.array([[1.0, 4.0, 3.0, 2.0, 5.0]]), 1, 4).tolist()
    [[3.5, 3.5, 3.5, 3.5, 0.0]]
    """
    ordered = -np.sort(-_groups(sizes, n, m), axis=1)[:, n - 1 : n + 1]
    middle = np.where(np.isfinite(ordered).all(1), ordered.sum(1) / 2, 0.0)
    return _spread(np.repeat(middle[:, None], m, 1), sizes.shape)


def _groups(values: Tensor, n: int, m: int) -> Tensor:
    if not 0 < n < m or values.ndim < 2:
        raise ValueError(f"{n}:{m} of {values.shape} is no pattern")
    inputs = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return np.pad(inputs.astype(np.float64), ((0, 0), (0, -inputs.shape[1] % m)), constant_values=-np.inf).reshape(
        -1, m
    )


def _spread(groups: Tensor, shape: tuple[int, ...]) -> Tensor:
    moved = (shape[0], *shape[2:], shape[1])
    width = shape[1] + -shape[1] % groups.shape[1]
    return np.moveaxis(groups.reshape(-1, width)[:, : shape[1]].reshape(moved), -1, 1)
