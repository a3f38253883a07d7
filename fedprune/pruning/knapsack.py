"""The cheapest choice of a level for every layer that a budget has room for, solved exactly."""

from collections.abc import Sequence
from functools import reduce
from math import gcd

import numpy as np

from fedprune.types import Tensor

_MOST = 2**20  # steps of a budget; a larger one is counted in coarser units, sizes rounded up


def cheapest(costs: Sequence[Tensor], sizes: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Layer -> index of its level: the least sum of costs whose sum of sizes is within ``budget``.

    By dynamic programming over what is spent (the multiple-choice knapsack); ties to the earlier level of a layer.
    Exact where the budget has no more than 2²⁰ steps of the sizes' common divisor; beyond that what is chosen still
    fits. ValueError where nothing does.

    >>> costs = [np.array([9.0, 1.0, 0.0]), np.array([6.0, 4.0, 0.0])]
    >>> cheapest(costs, [[1, 2, 4], [1, 2, 4]], 6), cheapest(costs, [[1, 2, 4], [1, 2, 4]], 5)
    ([1, 2], [1, 1])
    """
    unit = max(1, reduce(gcd, (size for each in sizes for size in each)), -(-budget // _MOST))
    room = budget // unit
    best, taken = np.zeros(room + 1), list[Tensor]()
    for cost, size in zip(costs, sizes, strict=True):
        before, best = best, np.full(room + 1, np.inf)
        taken.append(np.zeros(room + 1, np.int32))
        for level, needed in enumerate(-(-each // unit) for each in size):
            spent = before[: max(0, room + 1 - needed)] + cost[level]
            better = spent < best[needed:]
            best[needed:][better] = spent[better]
            taken[-1][needed:][better] = level
    if not np.isfinite(best[room]):
        raise ValueError(f"a budget of {budget} has no room for the least of every layer")
    found = list[int]()
    for chosen, size in zip(reversed(taken), reversed(sizes), strict=True):
        found.append(int(chosen[room]))
        room -= -(-size[found[-1]] // unit)
    return found[::-1]
