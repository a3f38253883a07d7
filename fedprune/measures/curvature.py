"""∂L/∂θ of whole layers, or H·v: how that changes along a direction v, L the loss of softened logits over all examples.

Asked with `Along`. Evidence is each layer's value, float64. Both are means over the examples, so that devices' answers
for the same v pool exactly where no batch norm is; H_k g_k of each device's own gradient would not, so that H g of the
pooled gradient g takes two asks: for g, and then along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import Slot, draws
from fedprune.training.gradients import along
from fedprune.types import Model, Params, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count

_FOUND, _ALONG = "curvature/", "along/"
_HELD = 3  # times the activations of a step, which a second derivative holds


class Along(NamedTuple):
    """Of which layers, of logits divided by what, and along which direction."""

    layers: Sequence[str]
    temperature: float = 1.0
    direction: Params = MappingProxyType({})
    """A value for every weight of the layers, sent as float32; none for the gradient itself."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    temperature: Annotated[float, Meta(gt=0, le=1e6)]
    along: bool


def _request(model: Model, args: Along) -> Payload:
    values = {"layers": list(args.layers), "temperature": args.temperature, "along": bool(args.direction)}
    sent = {_ALONG + name: np.asarray(value, np.float32) for name, value in args.direction.items()}
    return Payload(values, {**model.params, **sent}, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, layers = device.parts.train, request.values["layers"]
    size = max(1, (most or device.experiment.training.grow_batch) // (_HELD if request.values["along"] else 1))
    direction = {name: request.tensors[_ALONG + name] for name in layers} if request.values["along"] else {}
    batches, model = device.batches(examples, size), device.model(_own(request.tensors))
    with draws.seeded(device.number("curvature")):
        found = along(model, batches, layers, direction, device.task, request.values["temperature"])
    return Payload({"examples": len(examples)}, _layers.named(_FOUND, found))


def _merge(answers: Sequence[Payload], args: Along) -> dict[str, Tensor]:
    return _layers.mean(_FOUND, args.layers, answers, _layers.examples(answers))


def _check(answer: Payload, args: Along, model: Model) -> None:
    count(answer, "examples", least=1)
    finite(answer, _layers.shapes(_FOUND, args.layers, model))


def _accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    own = _own(request.tensors)
    _layers.accepts(slots, request._replace(tensors=own))
    sent = {name: value for name, value in request.tensors.items() if name not in own}
    layers = request.values["layers"] if request.values["along"] else []
    finite(Payload({}, sent), {_ALONG + name: slots[name].shape for name in layers})


def _own(tensors: Params) -> Params:
    return {name: value for name, value in tensors.items() if "/" not in name}


def _most(slots: Mapping[str, Slot], values: Mapping[str, object]) -> int:
    return sum(slot.nbytes + len(_ALONG + name) + FRAME for name, slot in slots.items()) if values["along"] else 0


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # the direction, a batch's gradient and its derivative, their sum and its copy as a mean
    return 5 * sum(4 * prod(shape) for shape in shapes.values())


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_accepts,
    backward=True,
    passes=_HELD,
    memory=_memory,
    most=_most,
)
