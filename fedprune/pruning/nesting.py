"""Nested masks: one order of scores and a threshold a tier, so that larger devices keep what smaller ones keep."""

from collections.abc import Mapping

import numpy as np

from fedprune.pruning.topk import top_k
from fedprune.types import Masks, Scores


def nested(scores: Scores, counts: Mapping[str, int], within: Masks) -> Masks:
    """The ``counts[l]`` best-scored positions of each layer l among those that ``within`` keeps, ties to the first.

    Where ``within`` keeps fewer, all of them. Masks by one order of scores are nested as long as their counts ascend;
    so a small mask is a function of a large one and a number a layer. KeyError for a layer of ``counts`` that has no
    scores or no mask.

    >>> scores, large = {"w": np.array([4.0, 3.0, 2.0, 1.0])}, {"w": np.array([False, True, True, True])}
    >>> nested(scores, {"w": 2}, within=large)
    {'w': array([False,  True,  True, False])}
    """
    return {
        name: top_k(np.where(within[name], scores[name], -np.inf), min(count, int(np.count_nonzero(within[name]))))
        for name, count in counts.items()
    }


def counts(masks: Masks) -> dict[str, int]:
    """Kept positions of each layer: all there is to a small mask, given the large one and the scores.

    >>> counts({"w": np.array([True, False, True])})
    {'w': 2}
    """
    return {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}


def with_room(counts: Mapping[str, int], room: Mapping[str, int]) -> dict[str, int]:
    """As many positions in all, none of a layer above its ``room``: what is too much goes where there is room left.

    Each layer gets of it in proportion to its room, and what rounding leaves the first ones that have any.

    >>> with_room({"a": 5, "b": 1, "c": 1}, {"a": 3, "b": 4, "c": 2})
    {'a': 3, 'b': 3, 'c': 1}
    """
    most = {name: min(count, room[name]) for name, count in counts.items()}
    spare = {name: room[name] - count for name, count in most.items()}
    excess, total = sum(counts.values()) - sum(most.values()), sum(spare.values())
    excess = min(excess, total)
    more = {name: excess * each // max(total, 1) for name, each in spare.items()}
    for name, each in spare.items():
        more[name] += min(each - more[name], excess - sum(more.values()))
    return {name: count + more[name] for name, count in most.items()}
