"""The one top-k of the library: an exact count, ties to the first position."""

import numpy as np

from fedprune.types import BoolTensor, Tensor

# Below this relative error a product density · size counts as the whole number that was meant (0.29 · 100 = 28.999…).
_ROUNDING = 1e-9


def kept_count(density: float, size: int) -> int:
    """How many of ``size`` positions a density keeps: ⌊density · size⌋, but a positive density keeps at least 1.

    >>> kept_count(0.29, 100), kept_count(0.001, 100), kept_count(0, 100)
    (29, 1, 0)
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density {density} is outside [0, 1]")
    return min(size, max(int(density > 0), int(density * size * (1 + _ROUNDING))))


def towards_top_k(mask: BoolTensor, scores: Tensor, swaps: int) -> BoolTensor:
    """``mask`` with at most ``swaps`` of its kept positions exchanged, the worst for the best of the pruned ones.

    None is exchanged for one that is not better; without a limit that ends in the top-k of the scores, k as kept.

    >>> towards_top_k(np.array([True, True, True, False, False]), np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 1).tolist()
    [True, False, True, True, False]
    """
    best = top_k(np.where(mask, -np.inf, scores), min(swaps, int(np.count_nonzero(~mask))))
    worst = top_k(np.where(mask, -scores, -np.inf), min(swaps, int(np.count_nonzero(mask))))
    most = min(np.count_nonzero(best), np.count_nonzero(worst))
    grown = np.flatnonzero(best)[np.argsort(-scores[best], kind="stable")][:most]
    dropped = np.flatnonzero(worst)[np.argsort(scores[worst], kind="stable")][:most]
    better = scores.flat[grown] > scores.flat[dropped]
    after = mask.copy()
    after.flat[grown[better]] = True
    after.flat[dropped[better]] = False
    return after


def top_k_of_rows(scores: Tensor, k: int) -> BoolTensor:
    """As `top_k`, but every row, along the first axis, keeps ⌊k / rows⌋; what is left over goes to the best next ones.

    So rows, which are a layer's outputs, keep as many, up to one, and the layer exactly k.

    >>> top_k_of_rows(np.array([[9.0, 8.0, 7.0], [3.0, 2.0, 1.0]]), 3).astype(int).tolist()
    [[1, 1, 0], [1, 0, 0]]
    """
    flat = scores.reshape(len(scores), -1)
    each, over = divmod(k, len(flat))
    order = np.argsort(-flat, axis=1, kind="stable")
    mask = np.zeros(flat.shape, np.bool_)
    np.put_along_axis(mask, order[:, :each], True, axis=1)
    if over:
        following = order[:, each : each + 1]
        better = top_k(np.take_along_axis(flat, following, 1), over)
        np.put_along_axis(mask, following, better, axis=1)
    return mask.reshape(scores.shape)


def top_k(scores: Tensor, k: int) -> BoolTensor:
    """Mask of the shape of ``scores`` with exactly ``k`` True: the largest scores, ties to the first in C order.

    A score of −inf is never worth keeping, but is kept where ``k`` asks for more than there are others.
    Raises ValueError where ``k`` is outside [0, scores.size] or a score is NaN.

    >>> top_k(np.array([[2.0, 7.0], [2.0, 2.0]]), 2).tolist()
    [[True, True], [False, False]]
    """
    flat = np.ascontiguousarray(scores).reshape(-1)
    if not 0 <= k <= flat.size:
        raise ValueError(f"cannot keep {k} of {flat.size} positions")
    mask = np.zeros(flat.size, dtype=np.bool_)
    largest = np.partition(flat, flat.size - k)[flat.size - k :] if k else flat
    if np.isnan(largest).any():  # NaN sorts last, so it is among the largest if it is anywhere
        raise ValueError("scores hold NaN")
    if k == 0:
        return mask.reshape(scores.shape)
    threshold = largest[0]
    np.greater(flat, threshold, out=mask)
    short = k - int(np.count_nonzero(mask))
    mask[np.flatnonzero(flat == threshold)[:short]] = True
    return mask.reshape(scores.shape)
