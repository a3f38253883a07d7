"""Regression: numbers to predict, one or several an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedprune.tasks.task import Given, Metric, Task
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

ERROR = Metric("mean absolute error", higher=False)
APART = Metric("mean absolute difference from torch", higher=False)
_PLAIN = Given()


def regression(given: Given = _PLAIN) -> Task:
    """Labels (n, targets), or (n,) of one target, and outputs (n, targets), normalised: the mean squared error.

    Outputs stand for (target − mean) / std, so that a step of training is the same whatever unit a target has; the loss
    is of those, the mean absolute error of the targets themselves.
    """
    mean, std = np.array(given.mean or 0.0, np.float32), np.array(given.std or 1.0, np.float32)
    return of_numbers(mean, std, _labels, lambda outputs, label: [(outputs,)], columns)


def of_numbers(mean: Tensor, std: Tensor, labels: object, outputs: object, count: Callable[[Tensor], int]) -> Task:
    """A task whose labels, of the shape of its outputs, are numbers; ``mean`` and ``std`` broadcast to both."""

    def loss(given: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        if given.shape != right.shape:
            raise ValueError(f"outputs have shape {tuple(given.shape)}, labels {tuple(right.shape)}: expected the same")
        wanted = (right - torch.from_numpy(mean)) / torch.from_numpy(std)
        return functional.mse_loss(given, wanted)

    def sums(given: Tensor, right: Tensor) -> dict[str, float]:
        return {"score": _apart(given.astype(np.float64) * std + mean, right)}

    def agree(one: Tensor, other: Tensor) -> float:
        return _apart(one.astype(np.float64) * std, other.astype(np.float64) * std)

    return Task(loss, ERROR, sums, labels, outputs, agree, APART, counted=count)  # type: ignore[arg-type]


def columns(labels: Tensor) -> int:
    """How many numbers each example has."""
    return labels.shape[1] if labels.ndim > 1 else 1


def _apart(one: Tensor, other: Tensor) -> float:
    """The absolute difference, a mean over what an example has, summed over examples."""
    return float(np.abs(one - other).reshape(len(one), -1).mean(axis=1).sum()) if len(one) else 0.0


def number_labels(labels: Tensor) -> Tensor:
    """Labels as float32. ValueError where they are no finite numbers."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iubf":
        raise ValueError(f"labels are {labels.dtype}, expected numbers")
    found = labels.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("labels hold values that are not finite numbers")
    return found


def _labels(labels: Tensor, outputs: int) -> Tensor:
    found = number_labels(labels)
    found = found[:, None] if found.ndim == 1 else found
    if found.shape[1:] != (outputs,):
        raise ValueError(
            f"labels have shape {np.shape(labels)}, expected (n, {outputs}): a number for each of the {outputs} names "
            "in classes, which are those of the targets"
        )
    return found
