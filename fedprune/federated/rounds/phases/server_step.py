"""The server's optimiser: what it makes of what devices changed, joined, and of the rounds before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedprune.experiment import Training
from fedprune.pruning.parts import statistics
from fedprune.types import Masks, Params, Tensor

MEAN, SQUARE = "mean/", "square/"
"""Prefixes, among what an optimiser keeps, of a tensor's first and second moments."""
Second = Callable[[Tensor, Tensor, float], Tensor]
"""(second moment v, Δ², β₂) -> the next v."""

_SECOND: Mapping[str, Second] = {
    "adagrad": lambda v, square, beta2: v + square,
    "adam": lambda v, square, beta2: beta2 * v + (1 - beta2) * square,
    "yogi": lambda v, square, beta2: v - (1 - beta2) * square * np.sign(v - square),
}


def stepped(
    settings: Training, before: Params, joined: Params, owned: Masks, moments: Params
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights, moments) after a step of the server's optimiser, which is not "none".

    With Δ = ``joined`` − ``before``, position by position: m ← β₁ m + Δ, w ← w + η m with momentum (FedAvgM; Hsu et
    al., 2019), else m ← β₁ m + (1 − β₁) Δ, w ← w + η m / (√v + τ), v by Adagrad, Adam or Yogi from τ² on (Reddi et al.,
    ICLR 2021, alg. 2). Where ``owned`` says that no device trained a position nothing moves, nor do counters and
    running statistics of batch norms, which are as in ``joined``. Moments are of the weights' type; a second one of 0
    is one that begins.
    """
    second = _SECOND.get(settings.server_optimiser)
    beta1, beta2, tau = settings.server_momentum, settings.server_beta2, settings.server_epsilon
    rate = settings.server_learning_rate or (1.0 if second is None else 0.01)
    params, kept = dict(joined), dict(moments)
    for name in joined.keys() - statistics(joined).keys():
        weight = before[name]
        if not np.issubdtype(weight.dtype, np.floating):
            continue
        mine = owned.get(name, np.True_)
        change = joined[name].astype(np.float64) - weight
        mean = kept.get(MEAN + name, np.zeros_like(weight)).astype(np.float64)
        new = beta1 * mean + (change if second is None else (1 - beta1) * change)
        moved = rate * new
        if second is not None:
            square = kept.get(SQUARE + name, np.zeros_like(weight)).astype(np.float64)
            after = second(np.where(square == 0, tau**2, square), np.square(change), beta2)
            moved = moved / (np.sqrt(after) + tau)
            kept[SQUARE + name] = np.where(mine, after, square).astype(weight.dtype)
        kept[MEAN + name] = np.where(mine, new, mean).astype(weight.dtype)
        params[name] = np.where(mine, weight + moved, weight).astype(weight.dtype)
    return params, kept


def owned_by_any(names: Sequence[str], shares: Sequence[Masks]) -> dict[str, Tensor]:
    """Which positions any of these masks keeps; a tensor that one does not mask is owned whole, and left out."""
    everywhere = [name for name in names if all(name in masks for masks in shares)]
    return {name: np.logical_or.reduce([masks[name] for masks in shares]) for name in everywhere}


def forgotten(moments: Params, masks: Masks, before: Params, after: Params) -> dict[str, Tensor]:
    """Moments that begin anew where a weight is pruned, or was put elsewhere by the method, as by rewinding."""
    found: dict[str, Tensor] = {}
    for key, value in moments.items():
        name = key.partition("/")[2]
        goes_on = (before[name] == after[name]) & masks.get(name, np.True_)
        found[key] = np.where(goes_on, value, value.dtype.type(0))
    return found
