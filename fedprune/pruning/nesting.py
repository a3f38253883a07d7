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
