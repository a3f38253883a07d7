"""How the loss changes with each layer's weights along directions drawn by a seed, from forward passes alone.

Asked with `Probes`. Evidence is ``slopes`` (layers, probes) float64, (L(θ + εz) − L(θ − εz)) / 2ε with z of ±1 in one
layer's weights and 0 elsewhere, L the mean loss of the devices' examples in evaluation mode; and ``examples``, how many
are behind it. All devices go along the same directions, so that means pool exactly. A number a layer and probe travels.
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
from fedprune.training import probing
from fedprune.types import Model, Params, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count

_SLOPES = "probes/slopes"
_STEEPEST = 1e30  # so that sums of them are finite


class Probes(NamedTuple):
    """Of which layers, how far and how often, by which seed, over how many examples of a device."""

    layers: Sequence[str]
    epsilon: float = 1e-3
    probes: int = 1
    seed: int = 0
    examples: int = 128
    """At most; a device with more draws so many of them, by the seed."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    epsilon: Annotated[float, Meta(gt=0, le=1e3)]
    probes: Annotated[int, Meta(ge=1, le=1000)]
    seed: int
    most: Annotated[int, Meta(ge=1, le=2**20)]


def _request(model: Model, args: Probes) -> Payload:
    drawn = {"epsilon": args.epsilon, "probes": args.probes, "seed": args.seed, "most": args.examples}
    return Payload({"layers": list(args.layers), **drawn}, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    values, size = request.values, min(most or _layers.BATCH, _layers.BATCH)
    some = _layers.drawn(device, "probes", values["most"])
    batches = list(device.batches(some, size))
    if (own := device.native(request, request.tensors)) is not None:
        loss = probing.native_loss_of(own, batches, size)
    else:
        plain, drawn = probing.loss_of(device.model(request.tensors), batches, device.task), device.number("probes")

        def loss(params: Params) -> float:
            with draws.seeded(drawn):  # the same to either side
                return plain(params)

    def slope(name: str, probe: int) -> float:
        along = probing.direction(values["seed"], name, probe, request.tensors[name])
        return probing.slope(loss, request.tensors, name, along, values["epsilon"])

    found = [[slope(name, probe) for probe in range(values["probes"])] for name in values["layers"]]
    return Payload({"examples": len(some)}, {_SLOPES: np.asarray(found, np.float64) / max(1, len(some))})


def _merge(answers: Sequence[Payload], args: Probes) -> dict[str, Tensor]:
    sizes = _layers.examples(answers)
    if not (total := sum(sizes)):
        return {}
    slopes = sum(each.tensors[_SLOPES] * (size / total) for each, size in zip(answers, sizes, strict=True))
    return {"slopes": np.asarray(slopes), "examples": np.asarray(int(total))}


def _check(answer: Payload, args: Probes, model: Model) -> None:
    count(answer, "examples", most=args.examples)
    finite(answer, {_SLOPES: (len(args.layers), args.probes)}, "float64")
    if np.any(np.abs(answer.tensors[_SLOPES]) > _STEEPEST):
        raise ValueError("a slope is too steep")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # the model in float64; of a layer its draws in float64, its direction and its weights to either side
    sizes = [prod(shape) for shape in shapes.values()]
    return 8 * sum(sizes) + (8 + 4 * 4) * max(sizes, default=0)


def _answers(args: Probes, model: Model) -> int:
    return 8 * len(args.layers) * args.probes + len(_SLOPES) + FRAME


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_layers.accepts,
    memory=_memory,
    answers=_answers,
    natively=True,
)
