"""Mean and variance of what each column of a layer's weight reads: of all inputs, what they carry and how they vary."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from fedprune.aggregation import pooled
from fedprune.training.batches import Batches
from fedprune.training.gram import over_columns
from fedprune.types import Moments, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn


def input_moments(model: nn.Module, batches: Batches, names: Collection[str]) -> dict[str, Moments]:
    """Moments of each column that a named weight's layer reads, float64, over all rows, in evaluation mode.

    Columns are those of `fedprune.training.gram`; of a convolution of several groups, all groups' one after the other.
    What is no weight of a linear layer or convolution, or of one that is not called as such, has moments of no rows.
    """
    from torch import nn

    modules = {name: dict(model.named_modules())[name.rpartition(".")[0]] for name in names}
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d
    layers = {name: layer for name, layer in modules.items() if isinstance(layer, kinds) and name.endswith("weight")}
    fans = {name: model.get_parameter(name)[0].numel() for name in names}
    found = {name: none_of(fan * getattr(layers.get(name), "groups", 1)) for name, fan in fans.items()}

    def add(name: str, columns: torch.Tensor) -> None:
        found[name] = more(found[name], columns.numpy())

    over_columns(model, batches, layers, add)
    return found


def none_of(columns: int) -> Moments:
    """Moments of so many columns over no rows."""
    return Moments(np.zeros(columns), np.zeros(columns), 0)


def more(before: Moments, columns: Tensor) -> Moments:
    """The moments with those of some more rows, given as (columns, rows) float64."""
    if not columns.shape[1]:
        return before
    return pooled([before, Moments(columns.mean(1), columns.var(1), columns.shape[1])])
