"""How much what a layer reads, and what each of its filters makes of it, varies over examples, place by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fedprune.aggregation import pooled
from fedprune.training.batches import Batches
from fedprune.training.gram import over_columns
from fedprune.types import Moments, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

PLACES = 16
"""Most places of a map that are looked at, evenly spaced in the order of its rows."""


def filter_moments(
    model: nn.Module, batches: Batches, names: Collection[str], worth: Callable[[Tensor], Tensor]
) -> dict[str, Moments]:
    """Moments of the columns that a layer reads and, below them, of what its filters make, (columns + out, places).

    They are over examples, weighted by ``worth(labels)``, float64, in evaluation mode, without biases, of each place by
    itself; a linear layer has one place. Columns are those of `fedprune.training.gram`, of a depthwise convolution all
    groups' one after the other. Of no examples, of convolutions of a few groups and of any other layer, such as
    attention's projections, it is one place with zeros.
    """
    from torch import nn

    layers = {name: layer for name in names if (layer := _followed(model, name)) is not None}
    weights = {name: model.get_parameter(name).detach().double().flatten(1) for name in names}
    groups = {name: int(getattr(layers.get(name), "groups", 1)) for name in names}
    zeros = {name: np.zeros((weights[name].shape[1] * groups[name] + len(weights[name]), 1)) for name in names}
    found = {name: Moments(none, none, 0) for name, none in zeros.items()}
    shares, seen = np.zeros(0), Counter[str]()

    def told() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal shares
        for inputs, labels in batches:
            shares = worth(labels)
            seen.clear()
            yield inputs, labels

    def add(name: str, columns: torch.Tensor) -> None:
        import torch

        of = shares
        if isinstance(layers[name], nn.Linear):  # a batch at once, each example's rows next to one another
            of = np.repeat(of, columns.shape[1] // len(of))
        else:  # an example at a time
            columns = columns[:, places(columns.shape[1])]
            of, seen[name] = of[seen[name] % len(of) :][:1], seen[name] + 1
        weight, read = (each.reshape(groups[name], -1, each.shape[1]) for each in (weights[name], columns))
        made = torch.matmul(weight, read).flatten(0, 1)
        values = torch.cat([columns, made]).numpy().reshape(len(columns) + len(made), -1, len(of))
        found[name] = _more(found[name], values, of)

    over_columns(model, told(), layers, add)
    return found


def _followed(model: nn.Module, name: str) -> nn.Module | None:
    from torch import nn

    layer = model.get_submodule(name.rpartition(".")[0])
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) or not name.endswith("weight"):
        return None
    return layer if getattr(layer, "groups", 1) in (1, getattr(layer, "in_channels", 1)) else None


def places(count: int) -> Tensor:
    """At most `PLACES` of so many, evenly spaced.

    >>> places(4).tolist(), places(64).tolist()[:4]
    ([0, 1, 2, 3], [0, 4, 8, 13])
    """
    return np.unique(np.round(np.linspace(0, count - 1, min(count, PLACES))).astype(np.int64))


def _more(before: Moments, values: Tensor, shares: Tensor) -> Moments:
    """The moments with those of some more ``values`` (columns, places, examples)."""
    if not (total := float(shares.sum())):
        return before
    mean = values @ (shares / total)
    now = Moments(mean, (values - mean[:, :, None]) ** 2 @ (shares / total), total)
    return pooled([before, now]) if before.examples else now
