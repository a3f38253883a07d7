"""Losses of coarse candidates over devices' development parts, under merged BN statistics (FedTiny, step 2).

Asked with `Pool`, its statistics those of ``bn_statistics`` or none. Evidence is ``loss``: each candidate's mean, and
``examples``, how many are behind it; a loss that is not finite is inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedprune import training
from fedprune.measures import DEVELOPMENT, Kind, Measurer
from fedprune.measures._candidates import BATCH, Asked, accepts, candidates_of, most, request
from fedprune.models import draws
from fedprune.pruning.candidates import Pool, statistics_of
from fedprune.training import native
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count, number


def _request(model: Model, args: Pool) -> Payload:
    asked = request(model, args)
    return Payload(asked.values, {**asked.tensors, **args.statistics}, asked.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    """Loss sum of every candidate on the development part, in evaluation mode, with the statistics that were sent."""
    examples, losses, batch = device.parts.development, [], min(most or BATCH, BATCH)
    for index, params in enumerate(candidates_of(request)):
        params = {**params, **statistics_of(index, request.tensors)}
        batches = device.batches(examples, batch)
        if (own := device.native(request, params)) is not None:
            loss = native.evaluate(own, batches, batch, device.task).loss
        else:
            model = device.model(params)
            with draws.seeded(device.number("candidates")):  # the same for each, so that only the masks differ
                loss = training.evaluate(model, batches, device.task).loss
        losses.append(loss if np.isfinite(loss) else None)
    return Payload({"examples": len(examples), "losses": losses})


def _merge(answers: Sequence[Payload], args: Pool) -> dict[str, Tensor]:
    told = [(answer.values["losses"], int(number(answer, "examples"))) for answer in answers]
    total = sum(size for _, size in told)
    if not total:
        return {"loss": np.full(len(args.candidates), np.inf), "examples": np.asarray(0)}
    sums = np.sum([np.asarray(losses, np.float64) for losses, size in told if size], axis=0)
    mean = sums / total
    return {"loss": np.where(np.isfinite(mean), mean, np.inf), "examples": np.asarray(total)}


def _check(answer: Payload, args: Pool, model: Model) -> None:
    count(answer, "examples")
    if answer.tensors:
        raise ValueError(f"expected losses alone, got the tensors {sorted(answer.tensors)[:3]}")
    losses = answer.values.get("losses")
    if not isinstance(losses, list) or len(losses) != len(args.candidates):
        raise ValueError(f"expected {len(args.candidates)} losses")
    for loss in losses:
        # null stands for a loss that is not finite, which JSON cannot say
        if loss is not None:
            number(Payload({"loss": loss}), "loss")


KIND = Kind(_measure, _merge, _check, DEVELOPMENT, _request, Asked, accepts, most=most, natively=True)
