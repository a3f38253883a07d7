"""One name for every tensor of a net: a parameter under two names is trained, masked, stored and counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def unique_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The net's ``state_dict``, every tensor once: under the first of its names."""
    second = second_names(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in second}


def second_names(model: nn.Module) -> dict[str, str]:
    """Each further name of a shared parameter or buffer -> its first one, under which it is kept.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    >>> net[1].weight = net[0].weight
    >>> second_names(net)
    {'1.weight': '0.weight'}
    """
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for kind in (model.named_parameters, model.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            if (own := first.setdefault(id(tensor), name)) != name:
                found[name] = own
    return found
