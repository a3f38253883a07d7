"""∂R/∂θ of whole layers at |θ|, R the flow of ones through the net of absolute weights: what SynFlow scores by.

Asked with the names of the layers. Evidence is each layer's gradient, float64. It looks at no example, so that every
device's answer is the same and says nothing of its data. See `fedprune.training.gradients.flow` for R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from fedprune import draws
from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.training.gradients import flow
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_FLOW = "flow/"


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    model = device.model(request.tensors)
    # not the device's own number: a net that draws would tell devices apart
    with draws.seeded(device.experiment.seed):
        found = flow(model, device.dataset.input_shape, request.values["layers"])
    return Payload({"examples": len(device.parts.train)}, _layers.named(_FLOW, found))


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    return _layers.mean(_FLOW, args, answers, [1.0] * len(answers))


def _check(answer: Payload, args: Sequence[str], model: Model) -> None:
    count(answer, "examples")
    finite(answer, _layers.shapes(_FLOW, args, model), "float64")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # absolute weights, their gradients and the answer, all float64
    return sum(3 * 8 * prod(shape) for shape in shapes.values())


def _answers(args: Sequence[str], model: Model) -> int:
    return _layers.sizes(args, model, 8)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_layers.request,
    values=_layers.Asked,
    accepts=_layers.accepts,
    private=True,
    backward=True,
    memory=_memory,
    answers=_answers,
)
