"""Mean over examples of (∂L_i/∂θ)² of whole layers, L_i an example's own loss: how far single examples pull a weight.

Asked with `Squares`. Evidence is each layer's mean, float64, and ``examples``, how many are behind it. It is that of
all devices' examples pooled, with batch norm as well, which goes by its running statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.training.gradients import squares
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_SQUARES = "squares/"


class Squares(NamedTuple):
    """Of which layers, over how many examples of a device."""

    layers: Sequence[str]
    examples: int = 128
    """At most; a device with more draws so many of them, by the seed."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    most: Annotated[int, Meta(ge=1, le=2**20)]


def _request(model: Model, args: Squares) -> Payload:
    return Payload({"layers": list(args.layers), "most": args.examples}, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    some, layers = _layers.drawn(device, "gradient_squares", request.values["most"]), request.values["layers"]
    model = device.model(request.tensors)
    with draws.seeded(device.number("gradient_squares")):
        found = squares(model, device.batches(some, most or _layers.BATCH), layers, device.task)
    return Payload({"examples": len(some)}, _layers.named(_SQUARES, found))


def _merge(answers: Sequence[Payload], args: Squares) -> dict[str, Tensor]:
    sizes = _layers.examples(answers)
    found = _layers.mean(_SQUARES, args.layers, answers, sizes)
    return {**found, "examples": np.asarray(sum(sizes))} if found else {}


def _check(answer: Payload, args: Squares, model: Model) -> None:
    count(answer, "examples", most=args.examples)
    finite(answer, _layers.shapes(_SQUARES, args.layers, model))
    if negative := [name for name, value in answer.tensors.items() if np.any(value < 0)]:
        raise ValueError(f"{negative[0]}: a square is below 0")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # sums in float64, an example's gradient, the mean; and one layer's gradient and its square in float64
    sizes = [prod(shape) for shape in shapes.values()]
    return (8 + 4 + 4) * sum(sizes) + 2 * 8 * max(sizes)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_layers.accepts,
    backward=True,
    memory=_memory,
)
