"""Depth: a number for each pixel, or for each place of another map."""

from __future__ import annotations

import numpy as np

from fedprune.tasks.regression import number_labels, of_numbers
from fedprune.tasks.task import Given, Task
from fedprune.types import Tensor

_PLAIN = Given()


def depth(given: Given = _PLAIN) -> Task:
    """Labels (n, H, W) and outputs (n, 1, H, W), normalised: squared error trained, absolute error told.

    With several names of outputs, labels are (n, outputs, H, W).
    """
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (given.mean or 0.0, given.std or 1.0))
    return of_numbers(mean, std, _labels, lambda outputs, label: [label], _maps)


def _maps(labels: Tensor) -> int:
    return labels.shape[1] if labels.ndim > 3 else 1


def _labels(labels: Tensor, outputs: int) -> Tensor:
    found = number_labels(labels)
    found = found[:, None] if found.ndim == 3 else found
    if found.ndim != 4 or found.shape[1] != outputs:
        expected = "(n, H, W)" if outputs == 1 else f"(n, {outputs}, H, W)"
        raise ValueError(f"labels have shape {np.shape(labels)}, expected {expected}")
    return found
