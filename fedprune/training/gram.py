"""Gram matrices of what layers read: all that a least-squares fit of a layer's output needs of the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from fedprune.training.batches import Batches, as_input
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn


def gram(model: nn.Module, batches: Batches, names: Collection[str]) -> dict[str, tuple[Tensor, int]]:
    """(XᵀX, number of rows of X) of each named weight, float64 of shape (fan_in, fan_in), in evaluation mode.

    A row of X is what one output value of a linear layer or a convolution is the product of, in the order of
    ``weight.reshape(out, -1)``: an example's features, or its patch at a position. A bias is not among it. ValueError
    for a weight of any other layer, or of a convolution with groups.
    """
    import torch

    layers = {name: layer_of(model, name) for name in names}
    if grouped := [name for name, layer in layers.items() if getattr(layer, "groups", 1) != 1]:
        raise ValueError(f"{grouped[0]!r:.80} is of a convolution of several groups, expected one")
    fans = {name: layer.get_parameter("weight")[0].numel() for name, layer in layers.items()}
    sums = {name: torch.zeros((fan, fan), dtype=torch.float64) for name, fan in fans.items()}
    rows = dict.fromkeys(names, 0)

    def add(name: str, columns: torch.Tensor) -> None:
        sums[name].addmm_(columns, columns.T)
        rows[name] += columns.shape[1]

    over_columns(model, batches, layers, add)
    return {name: (total.numpy(), rows[name]) for name, total in sums.items()}


def over_columns(
    model: nn.Module, batches: Batches, layers: Mapping[str, nn.Module], add: Callable[[str, torch.Tensor], None]
) -> None:
    """Call ``add`` with what each of these layers reads, (columns, rows) float64, a part at a time, in evaluation mode.

    A convolution of several groups has columns of one after the other; of an attention its last projection is a layer.
    """
    import torch

    from fedprune.graph.attention import opened

    def adding(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            for columns in _columns(layer, inputs[0].detach()):
                add(name, columns.double())

        return hook

    model.eval()
    hooks = [layer.register_forward_pre_hook(adding(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), opened(model, layers.values()):
            for inputs, _ in batches:
                model(as_input(inputs))
    finally:
        for each in hooks:
            each.remove()


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The layer of a weight; ValueError where it is none of Linear, Conv1d or Conv2d."""
    from torch import nn

    prefix, _, key = name.rpartition(".")
    layer = dict(model.named_modules()).get(prefix)
    if key != "weight" or not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        what = type(layer).__name__
        raise ValueError(f"{name!r:.80} is of {what}, expected the weight of Linear, Conv1d or Conv2d")
    return layer


def _columns(layer: nn.Module, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """What a layer reads as (columns, rows): a batch at once of a linear layer, else an example at a time.

    The patches of an example are kernel-size times as large as the example.
    """
    from torch import nn
    from torch.nn import functional

    if isinstance(layer, nn.Linear):
        yield inputs.reshape(-1, inputs.shape[-1]).T
        return
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    # unfold knows neither "same" nor padding with anything but zeros
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode)
    flat = isinstance(layer, nn.Conv1d)
    kernel, stride, dilation = ((1, *way) if flat else way for way in (layer.kernel_size, layer.stride, layer.dilation))
    for each in padded.unsqueeze(2) if flat else padded:
        yield functional.unfold(each[None], kernel, dilation, 0, stride)[0]
