"""Gram matrices of what layers read where the inputs are noise: they say nothing of anybody's examples.

Asked as ``gram``, and evidence as it is, of the same `_COUNT` inputs whoever answers: uniform, with the mean 0 and the
variance 1 of normalised data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedprune.counter_rng import generator
from fedprune.measures import Measurer, _layers, gram
from fedprune.types import Tensor
from fedprune.wire.payload import Payload

_COUNT, _END = 512, np.sqrt(3)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    size = min(most or _layers.BATCH, _layers.BATCH)
    return gram.measured(device, request, _noise(device, size), size, len(device.parts.train))


def _noise(device: Measurer, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = generator(device.experiment.seed, "gram_of_noise")
    for begin in range(0, _COUNT, size):
        count = min(size, _COUNT - begin)
        inputs = rng.uniform(-_END, _END, (count, *device.schema.input_shape)).astype(np.float32)
        yield inputs, np.zeros(count, np.int64)


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    # all say the same
    return {name: value / len(answers) for name, value in gram.KIND.merge(answers, args).items()}


KIND = gram.KIND._replace(measure=_measure, merge=_merge, private=True)
