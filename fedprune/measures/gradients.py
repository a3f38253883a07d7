"""∂L/∂θ of whole layers, pruned positions too, L the mean loss over all training examples: what SNIP scores by.

Asked with the names of the layers. Evidence is each layer's gradient, float64, and ``examples``, how many are behind
it. Without batch norm it is that of all devices' examples pooled; with batch norm an example's loss depends on the
batch that a device has it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.training.gradients import gradients
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_GRAD = "grad/"


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, layers = device.parts.train, request.values["layers"]
    batches = device.batches(examples, most or device.experiment.training.grow_batch)
    model = device.model(request.tensors)
    with draws.seeded(device.number("gradients")):
        grads = gradients(model, batches, layers, device.task)
    return Payload({"examples": len(examples)}, _layers.named(_GRAD, grads))


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    sizes = _layers.examples(answers)
    return {**_layers.mean(_GRAD, args, answers, sizes), **({"examples": np.asarray(sum(sizes))} if answers else {})}


def _check(answer: Payload, args: Sequence[str], model: Model) -> None:
    count(answer, "examples", least=1)
    finite(answer, _layers.shapes(_GRAD, args, model))


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # the sum of gradients and its copy as a mean, and one batch's gradient of the largest layer before it is added
    sizes = [4 * prod(shape) for shape in shapes.values()]
    return 2 * sum(sizes) + max(sizes)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_layers.request,
    values=_layers.Asked,
    accepts=_layers.accepts,
    backward=True,
    memory=_memory,
)
