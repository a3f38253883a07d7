"""The order by which smaller parts are drawn again, where devices decide it: by their scores, or by their votes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedprune.aggregation import Share, mean_scores, votes
from fedprune.federated.rounds.model import ORDER, State
from fedprune.pruning.nesting import counts, nested
from fedprune.types import Params, Tensor

_TIE = 1e-9


def ordered(state: State, shares: Sequence[Share], join: str) -> State:
    """The state, with an order for every part but the largest in its memory where ``join`` is scores or votes."""
    make = {"scores": _scores, "votes": _votes}.get(join)
    if make is None:
        return state
    orders = {
        f"{ORDER}{part}/{layer}": order
        for part in list(state.parts)[1:]
        for layer, order in make(state, part, shares).items()
    }
    return replace(state, memory={**state.memory, **orders})


def _scores(state: State, part: str, shares: Sequence[Share]) -> dict[str, Tensor]:
    """The devices' magnitudes, averaged over the owners by their examples."""
    return mean_scores([(_magnitudes(state, each.params), each.masks, each.weight) for each in shares])


def _votes(state: State, part: str, shares: Sequence[Share]) -> dict[str, Tensor]:
    """Votes of the owners, each for as many of its own largest weights as the part keeps; ties by magnitude."""
    wanted = counts({name: state.parts[part].masks[name] for name in state.masks})
    ballots = [
        (nested(_magnitudes(state, each.params), wanted, each.masks), each.masks, each.weight) for each in shares
    ]
    sizes = _magnitudes(state, state.params)
    return {
        name: share + _TIE * sizes[name].astype(np.float64) / max(float(sizes[name].max()), _TIE)
        for name, share in votes(ballots).items()
    }


def _magnitudes(state: State, params: Params) -> dict[str, Tensor]:
    return {name: np.abs(params[name]) for name in state.masks}
