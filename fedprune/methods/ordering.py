"""The order by which smaller parts are drawn again, where devices decide it: by their scores, or by their votes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedprune.aggregation import mean_scores, votes
from fedprune.pruning.nesting import counts, nested
from fedprune.types import DeviceId, Model, Params, Tensor, Trained

_TIE = 1e-9


def by_scores(model: Model, part: str, trained: Mapping[DeviceId, Trained]) -> dict[str, Tensor]:
    """The devices' magnitudes, averaged over the owners by their examples."""
    return mean_scores([(_magnitudes(model, each.params), each.masks, each.weight) for each in trained.values()])


def by_votes(model: Model, part: str, trained: Mapping[DeviceId, Trained]) -> dict[str, Tensor]:
    """Votes of the owners, each for as many of its own largest weights as the part keeps; ties by magnitude."""
    wanted = counts({name: model.parts[part].masks[name] for name in model.masks})
    ballots = [
        (nested(_magnitudes(model, each.params), wanted, each.masks), each.masks, each.weight)
        for each in trained.values()
    ]
    sizes = _magnitudes(model, model.params)
    return {
        name: share + _TIE * sizes[name].astype(np.float64) / max(float(sizes[name].max()), _TIE)
        for name, share in votes(ballots).items()
    }


def _magnitudes(model: Model, params: Params) -> dict[str, Tensor]:
    return {name: np.abs(params[name]) for name in model.masks}
