"""Cross-entropy over classes along any axis, with class weights and smoothed labels; what labels of classes are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

BALANCED = "balanced"


def entropy(
    outputs: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0, weights: tuple[float, ...] = ()
) -> torch.Tensor:
    """The cross-entropy of logits (n, classes, ...) and labels (n, ...), a mean over labels.

    One logit a label is that of class 1 of two. A label's term counts ``weights`` of its class, over the number of
    labels and not over the sum of their weights: so means of parts of a batch add up to that of the whole.
    """
    import torch
    from torch.nn import functional

    weight = torch.tensor(weights, dtype=outputs.dtype) if weights else None
    if outputs.shape[1] == 1:
        right = labels.to(outputs.dtype)
        soft = right * (1 - smoothing) + smoothing / 2
        each = None if weight is None else weight[labels]
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], soft, weight=each)
    if weight is None:
        return functional.cross_entropy(outputs, labels, label_smoothing=smoothing)
    summed: torch.Tensor = functional.cross_entropy(outputs, labels, weight, label_smoothing=smoothing, reduction="sum")
    return summed / max(1, labels.numel())


def chosen(outputs: Tensor, axis: int = 1) -> Tensor:
    """The class of logits along an axis, int64; of one logit 1 where it is positive."""
    if outputs.shape[axis] == 1:
        return np.asarray(np.take(outputs, 0, axis) > 0, np.int64)
    found: Tensor = outputs.argmax(axis)
    return found


def one_logit(outputs: int) -> list[tuple[int]]:
    """The other number of logits that so many classes may have: one of two."""
    return [(1,)] if outputs == 2 else []


def class_labels(labels: Tensor, outputs: int, axes: tuple[str, ...]) -> Tensor:
    """Labels as int64. ValueError where they have other ``axes``, are no whole numbers, or none of the classes."""
    labels = np.asarray(labels)
    last = max(outputs, 2) - 1  # one output is the logit of class 1 of two
    if labels.ndim != len(axes):
        raise ValueError(f"labels have shape {labels.shape}, expected ({', '.join(axes)}{',' * (len(axes) == 1)})")
    if labels.dtype.kind not in "iub" and not (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all())):
        otherwise = 'where they are numbers to predict, write task = "regression"'
        raise ValueError(f"labels are {labels.dtype}, expected whole numbers from 0 to {last}; {otherwise}")
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) > last):
        raise ValueError(f"labels reach from {int(labels.min())} to {int(labels.max())}, expected 0 to {last}")
    return labels.astype(np.int64, copy=False)


def balanced(labels: Tensor, outputs: int) -> tuple[float, ...]:
    """Weights in inverse proportion to how often each class is among ``labels``, whose mean over them is 1.

    A class that is not among them has weight 1, which nothing is multiplied by.

    >>> balanced(np.array([0, 0, 0, 1]), 2)
    (0.6666666666666666, 2.0)
    """
    counts = np.bincount(labels.reshape(-1), minlength=max(outputs, 2))
    there = int(np.count_nonzero(counts))
    return tuple(float(labels.size / (there * count)) if count else 1.0 for count in counts)
