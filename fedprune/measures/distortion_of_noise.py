"""How far outputs move when the smallest weights of a layer are 0, where the inputs are noise, of nobody's examples.

Asked with `fedprune.measures.distortion.Curves`, over so many ``examples`` of `_layers.noise`, the same whoever answers
(RD-prune without data). Evidence are ``mean`` and ``worst`` as of ``distortion``; ``examples`` are those that the
devices that answered hold, none of which is behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from fedprune.measures import Measurer, _layers, distortion
from fedprune.measures.distortion import Curves
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    batch, inputs = min(most or _layers.BATCH, _layers.BATCH), request.values["most"]
    noise = functools.partial(_layers.noise, device, "distortion_of_noise", inputs, batch)
    found = distortion.measured(device, request, noise, batch, inputs, device.experiment.seed)
    return found._replace(values={"examples": len(device.parts.train)})


def _merge(answers: Sequence[Payload], args: Curves) -> dict[str, Tensor]:
    if not answers:
        return {}
    # all say the same, but for the rounding of trainers
    return {
        "mean": np.mean([answer.tensors[distortion.SUM] for answer in answers], axis=0) / args.examples,
        "worst": np.max([answer.tensors[distortion.WORST] for answer in answers], axis=0),
        "examples": np.asarray(sum(answer.values["examples"] for answer in answers)),
    }


def _check(answer: Payload, args: Curves, model: Model) -> None:
    count(answer, "examples")
    distortion.bounded(answer, args, args.examples)


KIND = distortion.KIND._replace(measure=_measure, merge=_merge, check=_check, private=True)
