"""Budget-aware extrusion: weights that are about to be pruned are pushed to 0, so that others take over (FedMef)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from fedprune.training.optimisers import Named, plain_sgd
from fedprune.types import Now, Optimiser

if TYPE_CHECKING:
    import torch


def extruding(
    layers: Collection[str], fraction: Callable[[int], float], penalty: float, budget: int, rate: float = 0.0
) -> Optimiser:
    """Plain SGD on L + λ ‖θ_low‖² (FedMef, eq. 2), in rounds whose ``fraction`` of a layer's kept weights is above 0.

    θ_low are the ⌊fraction · kept⌋ smallest |θ| of each of ``layers`` when the round begins. For its first ``budget``
    steps T, the learning rate of step t is at least (2T − 2t)/(2T − t) · (2σ(‖θ_low‖) − 1) η₀, η₀ = ``rate`` (eq. 3 to
    5). Kept is what is not 0 or has a gradient.
    """
    plain = plain_sgd()

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        if now.step == 0:
            share = fraction(now.round)
            read = [name for name in layers if share and name in grads]
            state["low"] = {name: _smallest(trained[name], grads[name], share) for name in read}
        low: Mapping[str, torch.Tensor] = state["low"]
        square = sum(float(trained[name][at].square().sum()) for name, at in low.items())
        for name in low.keys() & grads.keys():
            grads[name].add_(trained[name] * low[name], alpha=2 * penalty)
        left = (2 * budget - 2 * now.step) / (2 * budget - now.step) if low and now.step < budget else 0.0
        least = left * math.tanh(math.sqrt(square) / 2) * rate  # 2σ(x) − 1 = tanh(x/2)
        sgd = now.sgd._replace(learning_rate=max(now.sgd.learning_rate, least))
        plain.update(trained, grads, state["sgd"], now._replace(sgd=sgd))

    return Optimiser(lambda trained: {"low": {}, "sgd": plain.init(trained)}, update)


def _smallest(weight: torch.Tensor, grad: torch.Tensor, fraction: float) -> torch.Tensor:
    """The ⌊fraction · kept⌋ smallest |θ|, as a mask; ties to the first."""
    import torch

    kept = (weight != 0) | (grad != 0)
    return lowest(torch.where(kept, weight.abs(), torch.inf), int(fraction * int(kept.sum()) * (1 + 1e-9)))


def lowest(sizes: torch.Tensor, count: int) -> torch.Tensor:
    """A mask of so many, the smallest; ties to the first."""
    import torch

    flat = sizes.flatten()
    low = torch.zeros_like(flat, dtype=torch.bool)
    low[flat.argsort(stable=True)[:count]] = True
    return low.view_as(sizes)
