"""Straight-through estimators: what is computed is rounded or cut, its gradient is that of what it was made from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.pruning.topk import top_k
from fedprune.training.losses import Tensors, computed_with
from fedprune.types import Loss, Now

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


def through_largest(kept: Mapping[str, int], weights: str) -> Loss:
    """The task's loss of a net that computes with the ``kept`` largest weights of each layer, and moves all of them.

    Memory holds a layer's weights under its name after ``weights``; the model's own have no part in it. What is left
    out has the gradient of what is computed in its place, 0 (SWAT; Raihan and Aamodt, NeurIPS 2020, alg. 1).
    """

    def seen(params: Tensors, memory: Tensors, now: Now) -> Tensors:
        sparse = {
            name: straight_through(memory[weights + name], functools.partial(_largest, k)) for name, k in kept.items()
        }
        return {**params, **sparse}

    return computed_with(seen)


def _largest(k: int, values: torch.Tensor) -> torch.Tensor:
    import torch

    return values * torch.from_numpy(top_k(np.abs(values.detach().numpy()), k))


def through_scores(kept: Mapping[str, int], weights: str, scores: str, *, until: int) -> Loss:
    """The mean cross-entropy under masks that alone are trained: the top ``kept`` of each layer's scores.

    Memory holds a layer's weights and scores under its name after ``weights`` and ``scores``. No weight has a gradient,
    and after round ``until`` that of the scores is 0.
    """

    def seen(params: Tensors, memory: Tensors, now: Now) -> Tensors:
        tried = {name: value.detach() for name, value in params.items()}
        for name, k in kept.items():
            score = memory[scores + name]
            mask = top_k_mask(score if now.round <= until else score.detach() + 0 * score, k)
            tried[name] = memory[weights + name] * mask
        return tried

    return computed_with(seen)


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
