"""Batch-norm statistics of coarse candidates over devices' development parts (FedTiny, adaptive BN selection, step 1).

Asked with `Pool`. Evidence is ``i/layer.mean`` and ``i/layer.var`` of candidate i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.counter_rng import generator
from fedprune.measures import DEVELOPMENT, Kind, Measurer
from fedprune.measures._candidates import BATCH, Asked, accepts, candidates_of, most, request
from fedprune.models import draws
from fedprune.pruning.candidates import Pool
from fedprune.training import evidence, native
from fedprune.types import Model, Moments, Tensor
from fedprune.wire.payload import Payload, count, number

if TYPE_CHECKING:
    from torch import nn

_RUNNING = ".running_"


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    """Re-estimate the BN statistics of every candidate on the development part: two floats a channel each."""
    examples, tensors = device.parts.development, {}
    # recordings lie by label, in folders or as they were made, and statistics of one class are none of the data's
    rng = generator(device.experiment.seed, "device", device.who, "statistics")
    examples = examples.take(rng.permutation(len(examples)))
    for index, params in enumerate(candidates_of(request) if len(examples) else []):
        batches = device.batches(examples, min(most or BATCH, BATCH))
        if (own := device.native(request, params)) is not None:
            found = native.bn_statistics(own, batches, min(most or BATCH, BATCH))
        else:
            model: nn.Module = device.model(params)
            with draws.seeded(device.number("candidates")):
                found = evidence.bn_statistics(model, batches)
        for name, moments in found.items():
            tensors[f"{index}/{name}.mean"], tensors[f"{index}/{name}.var"] = moments.mean, moments.variance
    return Payload({"examples": len(examples)}, tensors)


def _merge(answers: Sequence[Payload], args: Pool) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    # a device without development examples has nothing to say
    answers = [answer for answer in answers if number(answer, "examples") > 0]
    names = [name.removesuffix(".mean") for name in (answers[0].tensors if answers else {})]
    for name in (name for name in names if not name.endswith(".var")):
        moments = args.merge([_moments(answer, name) for answer in answers])
        merged[f"{name}.mean"] = moments.mean.astype(np.float32)
        merged[f"{name}.var"] = moments.variance.astype(np.float32)
    return merged


def _check(answer: Payload, args: Pool, model: Model) -> None:
    if count(answer, "examples") == 0:
        if answer.tensors:
            raise ValueError("statistics of no examples")
        return
    expected = {
        f"{index}/{name.removesuffix(_RUNNING + kind)}.{kind}": value.shape
        for index in range(len(args.candidates))
        for name, value in model.params.items()
        for kind in ("mean", "var")
        if name.endswith(_RUNNING + kind)
    }
    if answer.tensors.keys() != expected.keys():
        differ = sorted(answer.tensors.keys() ^ expected.keys())[:3]
        raise ValueError(f"expected the statistics of every batch-norm layer; these differ: {differ}")
    for name, value in answer.tensors.items():
        finite = value.dtype == np.float32 and value.shape == expected[name] and np.isfinite(value).all()
        if not finite or (name.endswith(".var") and (value < 0).any()):
            raise ValueError(f"{name}: not the finite statistics of a batch-norm layer")


def _moments(answer: Payload, name: str) -> Moments:
    tensors = answer.tensors
    return Moments(tensors[f"{name}.mean"], tensors[f"{name}.var"], int(number(answer, "examples")))


def _copies(args: Any) -> int:
    return len(args.candidates)


KIND = Kind(_measure, _merge, _check, DEVELOPMENT, request, Asked, accepts, copies=_copies, most=most, natively=True)
