"""Segmentation: a class for each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune.tasks.classes import chosen, class_labels, entropy, one_logit
from fedprune.tasks.task import OF_CLASSES, Given, Metric, Task
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

_PLAIN = Given()


def segmentation(given: Given = _PLAIN) -> Task:
    """Labels (n, H, W), outputs (n, classes, H, W), or (n, 1, H, W) of two classes: cross-entropy, and mean IoU.

    The intersection over union of a class is taken in each image, and averaged over the classes that the image or its
    output has, then over images: it adds up, and small images and rare classes count as they do in none of the pixels.
    """

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return entropy(outputs, labels, given.smoothing, given.weights)

    return Task(
        loss,
        Metric("mean IoU", "%"),
        lambda outputs, labels: {"score": _iou(chosen(outputs), labels, outputs.shape[1])},
        lambda labels, outputs: class_labels(labels, outputs, ("n", "H", "W")),
        lambda outputs, label: [(each, *label) for (each,) in [(outputs,), *one_logit(outputs)]],
        lambda one, other: float((chosen(one) == chosen(other)).mean(axis=(1, 2)).sum()),
        Metric("same class as torch, by pixel", "%"),
        most=1,
        error=lambda outputs, labels: entropy(outputs, labels) * len(labels),
        ends=OF_CLASSES,
    )


def _iou(said: Tensor, right: Tensor, classes: int) -> float:
    of = range(max(2, classes))
    mine, its = (np.stack([maps == each for each in of], 1) for maps in (said, right))  # (n, classes, H, W)
    both, either = (mine & its).sum(axis=(2, 3)), (mine | its).sum(axis=(2, 3))
    shares = np.where(either > 0, both / np.maximum(either, 1), 0.0).sum(axis=1)
    return float((shares / np.maximum((either > 0).sum(axis=1), 1)).sum())
