"""Kinds that are asked with the names of layers: what such a request is, and what is refused of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.counter_rng import generator
from fedprune.measures import Measurer, nothing_more
from fedprune.models import Slot
from fedprune.types import Model, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, number

if TYPE_CHECKING:
    from fedprune.data import Examples

BATCH = 128


class Asked(msgspec.Struct):
    """Values of a request."""

    layers: Annotated[list[str], Meta(min_length=1)]


def request(model: Model, args: Sequence[str]) -> Payload:
    """The model and its masks, and the names of the layers."""
    return Payload({"layers": list(args)}, model.params, model.masks)


def accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    """ValueError where a request has tensors besides the model's, or asks for what is no parameter of it."""
    nothing_more(slots, request)
    layers = request.values["layers"]
    if unknown := sorted(name for name in layers if name not in slots or not slots[name].trained):
        raise ValueError(f"asks for {unknown[:3]}, which are no parameters of the model")
    if len(set(layers)) < len(layers):
        raise ValueError("asks for a layer twice")


def accepts_matrices(slots: Mapping[str, Slot], request: Payload) -> None:
    """As ``accepts``, and where a layer is no matrix or kernel."""
    accepts(slots, request)
    if flat := sorted(name for name in request.values["layers"] if len(slots[name].shape) < 2):
        raise ValueError(f"asks for {flat[:3]}, which are no matrices")


def drawn(device: Measurer, kind: str, most: int) -> Examples:
    """At most so many of a device's training examples, by the seed, in stored order."""
    examples = device.parts.train
    order = generator(device.experiment.seed, "device", device.who, kind).permutation(len(examples))
    return examples.take(np.sort(order[:most]))


def noise(device: Measurer, kind: str, most: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many inputs, the same on every device, in batches: uniform, with the mean 0 and variance 1 of normalised data.

    Tokens are any of the classes. They say nothing of anybody's examples; so do their labels, of the model's kind.
    """
    rng, end = generator(device.experiment.seed, kind), np.sqrt(3)
    targets = len(device.schema.target_mean)
    for begin in range(0, most, size):
        many = min(size, most - begin)
        shape = many, *device.schema.input_shape
        if device.task.tokens:
            tokens = rng.integers(0, len(device.schema.classes), shape)
            yield tokens, tokens
        else:
            inputs = rng.uniform(-end, end, shape).astype(np.float32)
            yield inputs, np.zeros((many, targets), np.float32) if targets else np.zeros(many, np.int64)


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an answer: under a layer's own name one would travel without its pruned positions."""
    return {prefix + name: value for name, value in tensors.items()}


def shapes(prefix: str, args: Sequence[str], model: Model) -> dict[str, tuple[int, ...]]:
    """Shapes of an answer that has a value for every weight of the layers asked for."""
    return {prefix + name: model.params[name].shape for name in args}


def mean(prefix: str, args: Sequence[str], answers: Sequence[Payload], weights: Sequence[float]) -> dict[str, Tensor]:
    """Layer -> Σ w_k x_k / Σ w_k over the answers, float64; empty where all weights are 0."""
    total = sum(weights)
    if not total:
        return {}
    return {
        name: np.asarray(
            sum(
                answer.tensors[prefix + name].astype(np.float64) * (weight / total)
                for answer, weight in zip(answers, weights, strict=True)
            )
        )
        for name in args
    }


def examples(answers: Sequence[Payload]) -> list[float]:
    """How many examples are behind each answer."""
    return [number(answer, "examples") for answer in answers]


def sizes(args: Any, model: Model, itemsize: int) -> int:
    """Bytes of an answer of so many a weight of the layers asked for."""
    return sum(model.params[name].size * itemsize + len(name) + FRAME for name in args)
