"""Masks that are a smooth function of the weights themselves, so that a weight half-way may go either way (PDP)."""

from __future__ import annotations

from collections.abc import Callable

from fedprune.training.losses import Tensors, computed_with
from fedprune.types import Loss, Now, Tensor

Threshold = Callable[[str, Tensor, int], Tensor | float]
"""(layer, sizes, round) -> the size whose mask is a half, of a shape that goes with sizes; 0 where nothing goes."""


def through_soft_masks(
    layers: tuple[str, ...], threshold: Threshold, temperature: float, *, rows: bool = False
) -> Loss:
    """The task's loss of θ ⊙ m, m = softmax([1, (s/t)²] / τ)₂ = σ(((s/t)² − 1) / τ), in place of θ.

    s is |θ|, or, ``rows``, its mean over an output's weights. t follows from the sizes and has no gradient; m has one,
    which reaches what it prunes as well.
    """

    def seen(params: Tensors, memory: Tensors, now: Now) -> Tensors:
        import torch

        soft = dict(params)
        for name in layers:
            weight = params[name]
            sizes = weight.abs()
            if rows:
                sizes = sizes.flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))
            middle = torch.as_tensor(threshold(name, sizes.detach().numpy(), now.round), dtype=sizes.dtype)
            some = middle > 0
            # a quotient without end, though it is not taken, has a gradient that is no number
            ratio = sizes / torch.where(some, middle, 1.0)
            mask = torch.sigmoid((ratio.square() - 1) / temperature)
            soft[name] = weight * torch.where(some, mask, 1.0)
        return soft

    return computed_with(seen)
