"""Multi-label: each example has any number of the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune.tasks.regression import columns, number_labels
from fedprune.tasks.task import Given, Metric, Task
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

_PLAIN = Given()


def multi_label(given: Given = _PLAIN) -> Task:
    """Labels (n, labels) of 0 and 1, a logit of each in outputs of that shape: binary cross-entropy, and F1.

    F1 is each example's, 2·|Y ∩ Z| / (|Y| + |Z|) of its labels Y and those Z with a positive logit, 1 where both are
    empty; the metric is its mean over examples (Godbole and Sarawagi, 2004, section 5).
    """
    return Task(
        _loss,
        Metric("F1", "%"),
        lambda outputs, labels: {"score": _f1(outputs > 0, labels > 0)},
        _labels,
        lambda outputs, label: [(outputs,)],
        lambda one, other: float(((one > 0) == (other > 0)).mean(axis=1).sum()),
        Metric("same labels as torch", "%"),
        most=1,
        counted=columns,
        ends=("sigmoid",),
    )


def _loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(outputs, labels)


def _f1(said: Tensor, right: Tensor) -> float:
    both, sizes = (said & right).sum(axis=1), said.sum(axis=1) + right.sum(axis=1)
    return float(np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0).sum())


def _labels(labels: Tensor, outputs: int) -> Tensor:
    found = number_labels(labels)
    if found.ndim != 2 or found.shape[1] != outputs or not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"labels have shape {np.shape(labels)}, expected (n, {outputs}) of 0 and 1, one for each label"
        )
    return found
