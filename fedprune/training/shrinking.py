"""Soft shrinkage: after every step the smallest weights lose a part of themselves, and may come back (ISS-P)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedprune.pruning.topk import kept_count
from fedprune.training.extrusion import lowest
from fedprune.training.optimisers import Named, plain_sgd
from fedprune.types import Now, Optimiser


def shrinking(layers: Collection[str], density: float, alpha: float, until: int) -> Optimiser:
    """Plain SGD, each step of which ends with all but the ``density`` largest |θ| of a layer times ``alpha``.

    They are chosen anew at every step; so a weight that is chosen n times in a row and moves by nothing else is αⁿ of
    what it was. After round ``until`` steps are plain.
    """
    plain = plain_sgd()

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        import torch

        plain.update(trained, grads, state, now)
        for name in layers if now.round <= until else ():
            weight = trained[name]
            low = lowest(weight.abs(), weight.numel() - kept_count(density, weight.numel()))
            weight.mul_(torch.where(low, alpha, 1.0))

    return Optimiser(plain.init, update)
