"""Quantisation-aware training: a model that computes on the grids of its int8 file, for the duration of a context.

Weights are rounded to their row's symmetric grid, inputs of layers to the grid of what the layer has seen so far;
gradients pass straight through (Jacob et al., 2018, section 3; Bengio et al., 2013). Batch norm need not be folded for
it: the file's weights are s W with one factor s a row, and a row's grid scales with it, q(s W) = s q(W).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from fedprune.int8 import LEVELS, affine
from fedprune.training.straight_through import straight_through
from fedprune.types import Local

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def quantised(model: nn.Module) -> Iterator[None]:
    """While the context lasts, convolutions and linear layers of ``model`` round their weights and their inputs.

    A range begins with the first batch and grows with each, so that nothing that was seen is saturated; values that are
    not finite are left alone. Parameters keep their full precision, and a weight of 0 is 0. The rounding that is left
    out is that of sums, of branches that meet in one, and of the model's output. Enter it before training begins: what
    lean training puts in a weight's place is then rounded as well, and kept whole for the backward pass.
    """
    from torch import nn

    with ExitStack() as undo:
        for layer in model.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                undo.enter_context(put(layer, "forward", functools.partial(_forward, layer, _Range(), layer.forward)))
        yield


def quantisation_aware(local: Local) -> Local:
    """``local`` on the grids of the int8 file: what is around its training already puts its weights in place first."""

    @contextmanager
    def around(model: nn.Module) -> Iterator[None]:
        with quantised(model), local.around(model) if local.around is not None else nullcontext():
            yield

    return local._replace(around=around)


def on_weight_grid(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` (rows, ...) with each row w on the grid ``max |w| / 127``, as the exporter rounds it."""
    import torch

    largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    # in double precision, and then rounded, as the exporter's; a row of zeros needs no grid
    scale = (largest.double() / LEVELS).float().clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scale).round_().clamp_(-LEVELS, LEVELS).mul_(scale)


def on_grid(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """``values`` on the int8 grid of [low, high] and zero, saturated."""
    scale, zero_point = affine(low, high)
    return (values / scale).round_().add_(zero_point).clamp_(-128, 127).sub_(zero_point).mul_(scale)


@dataclass
class _Range:
    """What a layer has seen so far."""

    low: float = 0.0
    high: float = 0.0

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` on the grid of all seen, themselves included."""
        low, high = (float(end) for end in values.aminmax())
        if not isfinite(high - low):
            return values.clone()
        self.low, self.high = min(self.low, low), max(self.high, high)
        return on_grid(values, self.low, self.high)


def _forward(layer: nn.Module, seen: _Range, forward: Callable[..., Any], inputs: torch.Tensor) -> Any:
    weight: Any = layer.weight
    with put(layer, "weight", straight_through(weight, on_weight_grid)):
        return forward(straight_through(inputs, seen.rounded))


@contextmanager
def put(module: nn.Module, key: str, value: Any) -> Iterator[None]:
    """While the context lasts, the module's attribute ``key`` is this value; afterwards it is what it was."""
    # An attribute of the instance comes before the class's, and before torch's tables; one that is there is put back.
    former = vars(module).get(key)
    vars(module)[key] = value
    try:
        yield
    finally:
        if former is None:
            del vars(module)[key]
        else:
            vars(module)[key] = former
