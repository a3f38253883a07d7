"""Layers that keep the largest of their inputs alone for the backward pass: sparse training beyond the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fedprune.training.quantised import put

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def thin_inputs(model: nn.Module, shares: Callable[[nn.Module], Mapping[str, float]]) -> Iterator[None]:
    """While the context lasts, gradients of some layers' weights see the largest of their inputs alone.

    ``shares(model)``, asked when it begins, says of which weights, by name, and of how large a share of a batch's
    inputs, by absolute value (SWAT; Raihan and Aamodt, NeurIPS 2020, alg. 1). What layers compute, and the gradients of
    their inputs, are as without it. Other layers than convolutions and linear ones are left alone.
    """
    from torch import nn

    kinds = nn.Conv1d | nn.Conv2d | nn.Linear
    found = {model.get_submodule(name.rpartition(".")[0]): share for name, share in shares(model).items()}
    layers = {layer: share for layer, share in found.items() if isinstance(layer, kinds) and share < 1}
    with ExitStack() as undo:
        for layer, share in layers.items():
            undo.enter_context(put(layer, "forward", functools.partial(_forward, layer.forward, share)))
        yield


def kept_shares(names: tuple[str, ...], model: nn.Module) -> dict[str, float]:
    """The share of each of these weights that is not 0."""
    params = dict(model.named_parameters())
    return {name: float((params[name] != 0).float().mean()) for name in names}


def thinned(values: torch.Tensor, share: float) -> torch.Tensor:
    """``values`` with all but about the ``share`` largest absolute ones 0; what ties with the last of them stays."""
    kept = max(1, int(share * values.numel()))
    threshold = values.abs().flatten().kthvalue(values.numel() - kept + 1).values
    return values.masked_fill(values.abs() < threshold, 0)


def _forward(forward: Callable[[torch.Tensor], torch.Tensor], share: float, inputs: torch.Tensor) -> torch.Tensor:
    import torch

    def pack(saved: torch.Tensor) -> torch.Tensor:
        ours = saved.data_ptr() == inputs.data_ptr() and saved.numel() == inputs.numel()
        return thinned(saved, share) if ours else saved

    def unpack(saved: Any) -> torch.Tensor:
        kept: torch.Tensor = saved
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return forward(inputs)
