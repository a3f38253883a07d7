"""Divergence: training whose loss explodes, or whose values are not finite any more, said as such."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

EXPLODED = 1e4
"""How many times the loss that training began with, or 1 where that is less, is no loss of a model that learns."""


class Diverged(ArithmeticError):
    """Training that has diverged. Its message is one line."""

    def __init__(self, loss: float, tensor: str, largest: float, step: int | None = None) -> None:
        """``tensor`` holds the ``largest`` absolute value, NaN where it holds one; ``step`` counts from 0."""
        self.loss, self.tensor, self.largest, self.step = loss, tensor, largest, step
        super().__init__(words(loss, tensor, largest, step))


def words(loss: float, tensor: str, largest: float, step: int | None = None) -> str:
    """What is said of a divergence.

    >>> words(math.inf, "0.weight", 3.21e19, 4)
    'diverged in step 5: the loss is inf; largest value: 3.21e+19 in 0.weight'
    """
    when = "" if step is None else f" in step {step + 1}"
    where = f"; largest value: {largest:.3g} in {tensor}" if tensor else ""
    return f"diverged{when}: the loss is {loss:.3g}{where}"


def exploded(loss: float, first: float) -> bool:
    """Whether a loss is that of no model that learns, after training that began with ``first``.

    >>> [exploded(loss, 2.0) for loss in (0.0, 2e4, 2.1e4, math.inf, math.nan)]
    [False, False, True, True, True]
    """
    return not loss <= EXPLODED * max(1.0, first) < math.inf  # NaN is in no order


class Watch:
    """Looks at the loss of each step of a training, and at what is trained when something is wrong."""

    def __init__(self, trained: Mapping[str, torch.Tensor], first_loss: float | None = None) -> None:
        """``trained``: what to name where the loss is wrong; ``first_loss``, where it began earlier: that loss."""
        self._trained, self._first, self._loss, self._step = trained, first_loss, math.nan, 0

    def told(self, step: int, loss: float) -> float:
        """The mean loss of a step, or of a part of it, as it was given. Diverged where it is that of no training."""
        if self._first is None:
            self._first = loss
        self._step, self._loss = step, loss
        if exploded(loss, self._first):
            raise Diverged(loss, *largest(self._trained), step)
        return loss

    def ended(self, state: Mapping[str, torch.Tensor]) -> None:
        """Diverged where a value of ``state``, which training has come to, is not finite."""
        name, value = largest(state)
        if not math.isfinite(value):
            raise Diverged(self._loss, name, value, self._step)


def largest(tensors: Mapping[str, torch.Tensor] | Mapping[str, Tensor]) -> tuple[str, float]:
    """(the first tensor with NaN, else the one with the greatest absolute value; that value); ("", 0) of none."""
    found = "", 0.0
    for name, tensor in tensors.items():
        values = tensor if isinstance(tensor, np.ndarray) else tensor.detach().numpy()
        if not (np.issubdtype(values.dtype, np.floating) and values.size):
            continue
        value = float(np.abs(values).max())
        if math.isnan(value):
            return name, value
        if value > found[1] or not found[0]:
            found = name, value
    return found
