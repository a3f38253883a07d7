"""Share of examples that a model gets right, in evaluation mode.

Asked with the part to judge by, ``development`` where it is None, or ``train``. Evidence is ``accuracy``, of all
devices' examples pooled, and ``examples``, how many those are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from fedprune import training
from fedprune.measures import DEVELOPMENT, Kind, Measurer, examples_of
from fedprune.models import draws
from fedprune.training import native
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_BATCH = 128
Part = Literal["train", "development"]


class _Asked(msgspec.Struct):
    of: Part


def _request(model: Model, args: Part | None) -> Payload:
    return Payload({"of": _whose(args)}, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, batch = examples_of(device, request.values["of"]), min(most or _BATCH, _BATCH)
    batches = device.batches(examples, batch)
    if (own := device.native(request, request.tensors)) is not None:
        found = native.evaluate(own, batches, batch, device.task)
    else:
        model = device.model(request.tensors)
        with draws.seeded(device.number("accuracy")):
            found = training.evaluate(model, batches, device.task)
    return Payload({"examples": found.examples, "hits": found.correct})


def _merge(answers: Sequence[Payload], args: Part | None) -> dict[str, Tensor]:
    hits, examples = (sum(int(answer.values[key]) for answer in answers) for key in ("hits", "examples"))
    return {"accuracy": np.asarray(hits / examples), "examples": np.asarray(examples)} if examples else {}


def _check(answer: Payload, args: Part | None, model: Model) -> None:
    count(answer, "hits", most=count(answer, "examples", most=2**53))
    if answer.tensors:
        raise ValueError(f"expected hits alone, got the tensors {sorted(answer.tensors)[:3]}")


def _whose(args: Part | None) -> str:
    return args or DEVELOPMENT


KIND = Kind(_measure, _merge, _check, DEVELOPMENT, _request, _Asked, classes=True, natively=True, whose=_whose)
