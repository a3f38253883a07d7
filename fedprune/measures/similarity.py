"""How alike a net's features are with and without some layers: linear CKA of what its last layer reads (Layer-LTH).

Asked with `Without`. Evidence is ``similarity`` (candidates,), from 0 to 1, of a net in which the weights of each are
0, beside the net as it was sent, in evaluation mode, over some of all devices' training examples; and ``examples``, how
many these are. Devices send means and centred sums of products, which add up to those of all examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import Slot, draws
from fedprune.pruning.similarity import Products, cka, joined, products
from fedprune.training.features import features
from fedprune.types import Model, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count

_MEANS, _SUMS = "similarity/means", "similarity/sums"
_MOST = 1000  # candidates
_LARGEST = 1e15  # so that products of sums are finite


class Without(NamedTuple):
    """Which weights are left out, of each candidate, of which layer's inputs, over how many examples of a device."""

    candidates: Sequence[Sequence[str]]
    last: str
    """The weight of the layer whose inputs are the features; a linear one."""
    examples: int = 256
    """At most; a device with more draws so many of them, by the seed."""


class _Asked(msgspec.Struct):
    candidates: Annotated[list[list[str]], Meta(min_length=1, max_length=_MOST)]
    last: str
    most: Annotated[int, Meta(ge=1, le=2**20)]


def _request(model: Model, args: Without) -> Payload:
    values = {"candidates": [list(each) for each in args.candidates], "last": args.last, "most": args.examples}
    return Payload(values, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    values, size = request.values, min(most or _layers.BATCH, _layers.BATCH)
    some = _layers.drawn(device, "similarity", values["most"])

    def seen(without: Sequence[str]) -> Tensor:
        zeros = {name: np.zeros_like(request.tensors[name]) for name in without}
        model = device.model({**request.tensors, **zeros})
        with draws.seeded(device.number("similarity")):  # the same for each, so that only the weights differ
            return features(model, device.batches(some, size), values["last"].rpartition(".")[0])

    whole = seen(())
    found = [products(whole, seen(each)) for each in values["candidates"]]
    means, sums = (np.stack([each[at] for each in found]).astype(np.float32) for at in (0, 1))
    return Payload({"examples": len(some)}, {_MEANS: means, _SUMS: sums})


def _merge(answers: Sequence[Payload], args: Without) -> dict[str, Tensor]:
    told = [answer for answer in answers if answer.values["examples"]]
    if not told:
        return {}

    def part(answer: Payload, at: int) -> Products:
        means, sums = (answer.tensors[name][at].astype(np.float64) for name in (_MEANS, _SUMS))
        return Products(means, sums, int(answer.values["examples"]))

    whole = [joined([part(answer, at) for answer in told]) for at in range(len(args.candidates))]
    return {"similarity": np.array([cka(each) for each in whole]), "examples": np.asarray(whole[0].rows)}


def _check(answer: Payload, args: Without, model: Model) -> None:
    count(answer, "examples", most=args.examples)
    some, wide = len(args.candidates), model.params[args.last].shape[1]
    finite(answer, {_MEANS: (some, 2, wide), _SUMS: (some, 3, wide, wide)})
    if any(np.abs(value).max() > _LARGEST for value in answer.tensors.values()):
        raise ValueError("a mean or a sum of products is too large")
    if np.any(np.diagonal(answer.tensors[_SUMS][:, :2], axis1=2, axis2=3) < 0):
        raise ValueError("a sum of squares is below 0")


def _accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    values = request.values
    for names in ([values["last"]], *values["candidates"]):
        _layers.accepts_matrices(slots, request._replace(values={"layers": names}))
    if len(slots[values["last"]].shape) != 2:
        raise ValueError(f"{values['last']!r:.80} is of no linear layer")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # a model with zeros; sums of the widest linear layer's inputs, float64, of which a device holds few at a time
    widest = max((shape[1] for shape in shapes.values() if len(shape) == 2), default=0)
    return 4 * sum(prod(shape) for shape in shapes.values()) + 8 * 4 * widest**2


def _answers(args: Without, model: Model) -> int:
    wide: int = model.params[args.last].shape[1]
    return len(args.candidates) * 4 * (2 * wide + 3 * wide**2) + len(_MEANS) + len(_SUMS) + 2 * FRAME


KIND = Kind(
    _measure, _merge, _check, request=_request, values=_Asked, accepts=_accepts, memory=_memory, answers=_answers
)
