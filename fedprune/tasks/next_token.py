"""Next token: at each place of a sequence of tokens, the one that comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedprune.tasks.classes import chosen, class_labels, entropy
from fedprune.tasks.task import OF_CLASSES, Given, Metric, Task
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

_PLAIN = Given()


def next_token(given: Given = _PLAIN) -> Task:
    """Inputs and labels (n, T) of tokens, outputs (n, T, vocabulary): cross-entropy, and the share that is right.

    Both are means over places. e to the power of the loss is the perplexity, where neither weights nor smoothing are.
    """

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return entropy(outputs.transpose(1, -1), labels, given.smoothing, given.weights)

    def error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return entropy(outputs.transpose(1, -1), labels) * len(labels)

    return Task(
        loss,
        Metric("token accuracy", "%"),
        lambda outputs, labels: {"score": float((chosen(outputs, -1) == labels).mean(axis=1).sum())},
        _labels,
        lambda outputs, label: [(*label, outputs)],
        lambda one, other: float((chosen(one, -1) == chosen(other, -1)).mean(axis=1).sum()),
        Metric("same token as torch", "%"),
        most=1,
        error=error,
        tokens=True,
        ends=OF_CLASSES,
    )


def _labels(labels: Tensor, outputs: int) -> Tensor:
    return class_labels(labels, outputs, ("n", "T"))
