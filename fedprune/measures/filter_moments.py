"""How much what a filter makes varies over examples beside what it reads, place by place (β-rank's two σ).

Asked with `Filters`. Evidence is, of weights of linear layers and of convolutions that are depthwise or of one group,
``layer/read`` (places,), the mean variance of the columns that it reads at a place, and ``layer/made`` (out,
places), the variance of what each of its filters makes of them, without a bias; float64, over all training examples, a
class by its weight; and ``examples``. Places are at most 16 of a map, evenly spaced; a linear layer has one. Of all
other weights it is 0 at one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.aggregation import pooled
from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.training.filter_moments import PLACES, filter_moments
from fedprune.types import Model, Moments, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count, number

_READ, _MADE, _WEIGHT = "read/", "made/", "weight"


class Filters(NamedTuple):
    """Of which layers, and what an example of each class weighs."""

    layers: Sequence[str]
    weights: Sequence[float] = ()
    """Of each class; none where all examples weigh 1."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    weights: list[Annotated[float, Meta(ge=0, le=1e9)]]


def _request(model: Model, args: Filters) -> Payload:
    values = {"layers": list(args.layers), "weights": [float(each) for each in args.weights]}
    return Payload(values, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, weights = device.parts.train, np.asarray(request.values["weights"], np.float64)
    if len(weights) not in (0, len(device.schema.classes)):
        raise ValueError(f"{len(weights)} weights of {len(device.schema.classes)} classes")

    def worth(labels: Tensor) -> Tensor:
        return weights[labels] if len(weights) else np.ones(len(labels))

    model = device.model(request.tensors)
    batches = device.batches(examples, min(most or _layers.BATCH, _layers.BATCH))
    with draws.seeded(device.number("filter_moments")):
        found = filter_moments(model, batches, request.values["layers"], worth)
    tensors = dict[str, Tensor]()
    for name, (mean, variance, _) in found.items():
        out = len(request.tensors[name])
        tensors[_READ + name] = np.concatenate([mean[:-out], variance[:-out].mean(0, keepdims=True)]).astype(np.float32)
        tensors[_MADE + name] = np.stack([mean[-out:], variance[-out:]]).astype(np.float32)
    return Payload({"examples": len(examples), _WEIGHT: float(worth(examples.labels).sum())}, tensors)


def _merge(answers: Sequence[Payload], args: Filters) -> dict[str, Tensor]:
    answers = [answer for answer in answers if number(answer, _WEIGHT) > 0]
    merged: dict[str, Tensor] = {}
    for name in args.layers if answers else ():
        # how many columns and places there are, most devices say
        widths = Counter(answer.tensors[_READ + name].shape for answer in answers)
        shape = max(widths, key=lambda each: (widths[each], each))
        agreed = [answer for answer in answers if answer.tensors[_READ + name].shape == shape]
        read = pooled([Moments(a.tensors[_READ + name][:-1], a.tensors[_READ + name][-1:], _weight(a)) for a in agreed])
        made = pooled([Moments(a.tensors[_MADE + name][0], a.tensors[_MADE + name][1], _weight(a)) for a in agreed])
        merged |= {f"{name}/read": read.variance.mean(0), f"{name}/made": made.variance}
    return {**merged, "examples": np.asarray(sum(count(each, "examples") for each in answers))} if merged else {}


def _weight(answer: Payload) -> float:
    return number(answer, _WEIGHT)


def _check(answer: Payload, args: Filters, model: Model) -> None:
    examples, heaviest = count(answer, "examples", most=2**40), max(args.weights, default=1.0)
    if number(answer, _WEIGHT, least=0) > examples * heaviest * (1 + 1e-6):
        raise ValueError(f"{examples} examples weigh {_weight(answer)}, expected {examples * heaviest} at most")
    if not args.weights and _weight(answer) != examples:
        raise ValueError(f"{examples} examples weigh {_weight(answer)}, expected 1 each")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in args.layers:
        out, *fan = model.params[name].shape
        columns, places = (*answer.tensors.get(_READ + name, np.zeros(())).shape, 0, 0)[:2]
        places = min(max(places, 1), PLACES if len(fan) > 1 else 1)
        depthwise = columns == prod(fan) * out + 1 and fan[0] == 1
        shapes[_READ + name] = (prod(fan) * (out if depthwise else 1) + 1, places)
        shapes[_MADE + name] = (2, out, places)
    finite(answer, shapes)
    for name in args.layers:
        if np.any(answer.tensors[_READ + name][-1] < 0) or np.any(answer.tensors[_MADE + name][1] < 0):
            raise ValueError(f"{name}: a variance is below 0")


def _columns(shape: tuple[int, ...]) -> int:
    """How many columns a weight's layer reads at most: those of a depthwise one are all groups'."""
    return prod(shape) if shape[1] == 1 else prod(shape[1:])


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # mean and variance of all, and those of some examples more, float64
    matrices = [shape for shape in shapes.values() if len(shape) > 1]
    return 4 * 8 * PLACES * sum(_columns(shape) + shape[0] for shape in matrices)


def _answers(args: Filters, model: Model) -> int:
    def bytes_of(name: str) -> int:
        shape: tuple[int, ...] = model.params[name].shape
        return 4 * PLACES * (_columns(shape) + 1 + 2 * shape[0]) + 2 * (len(_READ + name) + FRAME)

    return sum(map(bytes_of, args.layers))


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_layers.accepts_matrices,
    memory=_memory,
    answers=_answers,
)
