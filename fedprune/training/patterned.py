"""N:M while a net is trained: what a pattern leaves out counts in part, and learns as if it counted whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune.pruning.patterns import n_of_m
from fedprune.training.losses import plain_loss
from fedprune.training.net import Net
from fedprune.training.straight_through import straight_through
from fedprune.types import Loss, Now

if TYPE_CHECKING:
    import torch

Pattern = Callable[[int], tuple[int, int, float]]
"""round -> (N, M, D): N of M count whole, the others D of themselves; D = 1 is dense."""


def through_pattern(layers: tuple[str, ...], pattern: Pattern) -> Loss:
    """The task's loss of θ ⊙ (m + (1 − m) D), m the N largest |θ| of every M inputs; its gradient is θ's.

    Straight through: no weight's gradient is less for what the mask, or D, makes of it.
    """

    def loss(
        net: Net,
        params: Mapping[str, torch.Tensor],
        inputs: torch.Tensor,
        labels: torch.Tensor,
        memory: Mapping[str, torch.Tensor],
        now: Now,
    ) -> torch.Tensor:
        n, m, left = pattern(now.round)

        def cut(values: torch.Tensor) -> torch.Tensor:
            import torch

            kept = n_of_m(np.abs(values.detach().numpy()), n, m)
            return values * torch.from_numpy(np.where(kept, np.float32(1), np.float32(left)))

        seen = {name: straight_through(params[name], cut) for name in layers} if left < 1 else {}
        return plain_loss(net, {**params, **seen}, inputs, labels, memory, now)

    return loss
