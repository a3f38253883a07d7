"""What is kept or dropped together: single weights, or the output channels of a layer.

>>> channel.pool({"conv.weight": np.array([[1.0, 3.0], [0.0, 0.5]])})  # (out, in)
{'conv.weight': array([2.  , 0.25])}
>>> kept = {"conv.weight": np.array([True, False])}
>>> channel.spread(kept, like={"conv.weight": np.ones((2, 2), bool)})["conv.weight"].tolist()
[[True, True], [False, False]]
"""

import numpy as np

from fedprune.types import Granularity, Masks, Scores, Tensor


def _same(scores: Scores) -> Scores:
    return scores


def _units_are_weights(kept: Masks, like: Masks) -> Masks:
    return kept


unstructured = Granularity(_same, _units_are_weights)
"""Every weight is a unit."""


def _channel_scores(scores: Scores) -> Scores:
    # (out, ...) -> (out,): the mean, so that layers of other fan-in compare
    return {name: value.reshape(value.shape[0], -1).mean(1) for name, value in scores.items()}


def _spread_channels(kept: Masks, like: Masks) -> Masks:
    return {name: _broadcast(units, like[name].shape) for name, units in kept.items()}


def _broadcast(units: Tensor, shape: tuple[int, ...]) -> Tensor:
    return np.broadcast_to(units.reshape(-1, *(1,) * (len(shape) - 1)), shape).copy()


channel = Granularity(_channel_scores, _spread_channels)
"""An output channel of a layer is a unit; its score is the mean over its weights. Channels that a residual sum or a
depthwise layer ties together are units of ``fedprune.graph.coupling.coupled`` instead."""
