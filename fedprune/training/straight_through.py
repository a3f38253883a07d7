"""Straight-through estimators: what is computed is rounded or cut, its gradient is that of what it was made from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.pruning.topk import top_k

if TYPE_CHECKING:
    import torch


def straight_through(values: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """``rounded(values)``, whose gradient is that of ``values`` (Bengio et al., 2013, section 4)."""
    made: torch.Tensor = _straight().apply(values, rounded)
    return made


def top_k_mask(scores: torch.Tensor, k: int) -> torch.Tensor:
    """1 at exactly the ``k`` largest scores and 0 elsewhere, as `pruning.topk` decides; the gradient passes through.

    A mask from scores that are trained (Ramanujan et al., 2020, section 3). ValueError where a score is NaN.
    """
    import torch

    def kept(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(top_k(values.detach().numpy(), k).astype(np.float32))

    return straight_through(scores, kept)


@functools.cache
def _straight() -> Any:
    import torch

    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor, rounded: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
            return rounded(values)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            return gradient, None

    return Straight
