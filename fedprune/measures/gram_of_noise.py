"""Gram matrices of what layers read where the inputs are noise: they say nothing of anybody's examples.

Asked as ``gram``, and evidence as it is, of the same `_COUNT` inputs of `_layers.noise` whoever answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.measures import Measurer, _layers, gram
from fedprune.types import Tensor
from fedprune.wire.payload import Payload

_COUNT = 512


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    size = min(most or _layers.BATCH, _layers.BATCH)
    noise = _layers.noise(device, "gram_of_noise", _COUNT, size)
    return gram.measured(device, request, noise, size, len(device.parts.train))


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    # all say the same
    return {name: value / len(answers) for name, value in gram.KIND.merge(answers, args).items()}


KIND = gram.KIND._replace(measure=_measure, merge=_merge, private=True)
