"""Classification: one class an example, out of the model's outputs, or out of two where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedprune.tasks.classes import chosen, class_labels, entropy, one_logit
from fedprune.tasks.task import ACCURACY, OF_CLASSES, SAME_CLASS, Given, Task
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

_PLAIN = Given()


def classification(given: Given = _PLAIN) -> Task:
    """Labels (n,), outputs (n, classes), or (n, 1) of two classes: the cross-entropy, and the share that is right."""

    def loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return entropy(outputs, labels, given.smoothing, given.weights)

    def sums(outputs: Tensor, labels: Tensor) -> dict[str, float]:
        return {"correct": int(np.count_nonzero(chosen(outputs) == labels))}

    def right(labels: Tensor, outputs: int) -> Tensor:
        return class_labels(labels, outputs, ("n",))

    def agree(one: Tensor, other: Tensor) -> float:
        return int(np.count_nonzero(chosen(one) == chosen(other)))

    return Task(
        loss,
        ACCURACY,
        sums,
        right,
        lambda outputs, label: [(outputs,), *one_logit(outputs)],
        agree,
        SAME_CLASS,
        names=("correct",),
        value=lambda sums: sums["correct"] / sums["seen"],
        most=1,
        error=_summed,
        classes=True,
        ends=OF_CLASSES,
    )


def _summed(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    from torch.nn import functional

    if outputs.shape[1] == 1:
        return entropy(outputs, labels) * len(labels)
    return functional.cross_entropy(outputs, labels, reduction="sum")


CLASSIFICATION = classification()
