"""A threshold for each filter that decides whether the filter is there, trained along with the weights (SpaFL)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedprune.training.losses import Tensors, computed_with
from fedprune.training.straight_through import straight_through
from fedprune.types import BoolTensor, Loss, Now, Tensor

if TYPE_CHECKING:
    import torch


def kept_rows(weight: Tensor, threshold: Tensor) -> BoolTensor:
    """Which filters have a mean |w| above their threshold; all of them where none has.

    >>> weight = np.array([[1.0, -3.0], [0.5, 0.5]])
    >>> kept_rows(weight, np.array([1.5, 1.5])).tolist(), kept_rows(weight, np.array([9.0, 9.0])).tolist()
    ([True, False], [True, True])
    """
    above = np.abs(weight).reshape(len(weight), -1).mean(1) > threshold
    return np.asarray(above if above.any() else np.ones_like(above))


def through_thresholds(layers: Sequence[str], prefix: str, pull: float) -> Loss:
    """The task's loss of the model without the filters that their thresholds prune, plus ``pull`` Σ exp(−τ).

    Memory holds a layer's thresholds under its name after ``prefix``. ∂L/∂τ_i = −Σ_j w_ij ∂L/∂w_ij, straight through;
    weights of pruned filters have a gradient of 0 (SpaFL, §3.2).
    """

    def seen(params: Tensors, memory: Tensors, now: Now) -> Tensors:
        import torch

        tried = dict(params)
        for name in layers:
            weight, threshold = params[name], memory[prefix + name]

            def there(
                above: torch.Tensor, weight: torch.Tensor = weight, threshold: torch.Tensor = threshold
            ) -> torch.Tensor:
                return torch.from_numpy(
                    kept_rows(weight.detach().numpy(), threshold.detach().numpy()).astype(np.float32)
                )

            kept = straight_through(-threshold, there)
            tried[name] = weight * kept.reshape(-1, *[1] * (weight.ndim - 1))
        return tried

    def pulls(memory: Tensors) -> torch.Tensor:
        import torch

        return pull * sum((torch.exp(-memory[prefix + name]).sum() for name in layers), torch.zeros(()))

    return computed_with(seen, pulls)
