"""N:M while a net is trained: what a pattern leaves out counts in part, and learns as if it counted whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedprune.pruning.patterns import n_of_m
from fedprune.training.losses import Tensors, computed_with
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

    def seen(params: Tensors, memory: Tensors, now: Now) -> Tensors:
        n, m, left = pattern(now.round)

        def cut(values: torch.Tensor) -> torch.Tensor:
            import torch

            kept = n_of_m(np.abs(values.detach().numpy()), n, m)
            return values * torch.from_numpy(np.where(kept, np.float32(1), np.float32(left)))

        tried = {name: straight_through(params[name], cut) for name in layers} if left < 1 else {}
        return {**params, **tried}

    return computed_with(seen)
