"""What a layer reads of each example: a net's view of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.training.batches import Batches, as_input
from fedprune.types import Tensor

if TYPE_CHECKING:
    from torch import nn


def features(model: nn.Module, batches: Batches, layer: str) -> Tensor:
    """(examples, features) that a layer reads, float64, in evaluation mode; several tokens of an example in a row."""
    import torch

    read: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0].detach().double().numpy())

    handle = model.get_submodule(layer).register_forward_pre_hook(hook)
    try:
        model.eval()
        with torch.no_grad():
            for inputs, _ in batches:
                model(as_input(inputs))
    finally:
        handle.remove()
    return np.concatenate([each.reshape(len(each), -1) for each in read])
