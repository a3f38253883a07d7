"""How many training examples of each class devices have.

Asked with the number of classes. Evidence is ``examples``, and ``classes``, int64: those of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedprune.measures import Kind, Measurer
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_CLASSES = "classes"


def _request(model: Model, args: int) -> Payload:
    return Payload()


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    labels = device.parts.train.labels
    found = np.bincount(labels, minlength=len(device.schema.classes)).astype(np.int64)
    return Payload({"examples": len(labels)}, {_CLASSES: found})


def _merge(answers: Sequence[Payload], args: int) -> dict[str, Tensor]:
    if not answers:
        return {}
    classes = np.sum([answer.tensors[_CLASSES] for answer in answers], axis=0)
    return {_CLASSES: classes, "examples": np.asarray(classes.sum())}


def _check(answer: Payload, args: int, model: Model) -> None:
    examples = count(answer, "examples", most=2**40)  # so that sums stay far from what int64 holds
    found = answer.tensors.get(_CLASSES)
    if answer.tensors.keys() != {_CLASSES} or found is None or found.dtype != np.int64 or found.shape != (args,):
        raise ValueError(f"expected the examples of each of {args} classes alone, as int64")
    if np.any(found < 0) or sum(map(int, found)) != examples:
        raise ValueError(f"the examples of the classes do not add up to {examples}")


def _answers(args: int, model: Model) -> int:
    return 8 * args


KIND = Kind(
    _measure, _merge, _check, request=_request, passes=0, carries=False, answers=_answers, classes=True, natively=True
)
