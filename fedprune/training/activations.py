"""Activation pruning: layers keep only the largest of their inputs for the backward pass, which takes the rest as 0."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fedprune.pruning.topk import kept_count
from fedprune.training.quantised import put

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def pruned_activations(model: nn.Module, keep: float) -> Iterator[None]:
    """While the context lasts, convolutions and linear layers save the largest |x| of a batch, a ``keep`` of them.

    Outputs are those of all inputs; of the gradients the weights' alone are others, those of the saved inputs (FedMef,
    §3.3). What other layers save is as it was.
    """
    from torch import nn

    with ExitStack() as undo:
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                undo.enter_context(put(layer, "forward", functools.partial(_forward, layer, keep, layer.forward)))
        yield


def _forward(layer: Any, keep: float, forward: Callable[..., Any], inputs: torch.Tensor) -> Any:
    from torch.autograd.graph import saved_tensors_hooks

    def packed(saved: torch.Tensor) -> Any:
        of_inputs = saved.numel() == inputs.numel() and saved.data_ptr() != layer.weight.data_ptr()
        return _largest(saved, keep) if of_inputs else saved

    with saved_tensors_hooks(packed, _unpacked):
        return forward(inputs)


def _largest(values: torch.Tensor, keep: float) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = values.abs()
    threshold = sizes.flatten().kthvalue(1 + values.numel() - kept_count(keep, values.numel())).values
    at = (sizes >= threshold) & (sizes > 0)
    return at, values[at]


def _unpacked(packed: Any) -> torch.Tensor:
    import torch

    if isinstance(packed, torch.Tensor):
        return packed
    at, values = packed
    full = torch.zeros_like(at, dtype=values.dtype)
    full[at] = values
    return full
