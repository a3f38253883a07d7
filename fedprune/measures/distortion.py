"""How far a model's outputs move when the smallest weights of one layer at a time are 0, along a grid (RD-prune).

Asked with `Curves`. Evidence are ``mean`` and ``worst``, (layers, fractions) float64: of ‖f(x; θ) − f(x; θ_l)‖² over
the devices' training examples x, θ_l with so much of what layer l has, its largest |θ|; and ``examples``, how many are
behind it. Outputs are those of evaluation. Two numbers a layer and fraction travel, whatever the model's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from fedprune import training
from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.pruning.topk import kept_count, top_k
from fedprune.training import native
from fedprune.training.batches import Batches
from fedprune.types import Model, Params, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count, number

SUM, WORST = "distortion/sum", "distortion/worst"
_SLACK = 1e-9  # what sums of float64 may be off, of themselves


class Curves(NamedTuple):
    """Of which layers, at which fractions of the weights that each has left, over how many examples of a device."""

    layers: Sequence[str]
    fractions: Sequence[float]
    examples: int = 256
    """At most; a device with more draws so many of them, by the seed."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    fractions: Annotated[list[Annotated[float, Meta(ge=0, le=1)]], Meta(min_length=1, max_length=1000)]
    most: Annotated[int, Meta(ge=1, le=2**20)]


def kept_of(weight: Tensor, fraction: float) -> int:
    """How many weights a layer keeps at this fraction of those that it has left."""
    return kept_count(fraction, int(np.count_nonzero(weight)))


def _request(model: Model, args: Curves) -> Payload:
    values = {"layers": list(args.layers), "fractions": list(args.fractions), "most": args.examples}
    return Payload(values, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    some, batch = _layers.drawn(device, "distortion", request.values["most"]), min(most or _layers.BATCH, _layers.BATCH)
    return measured(device, request, lambda: device.batches(some, batch), batch, len(some), device.number("distortion"))


def measured(
    device: Measurer, request: Payload, batches: Callable[[], Batches], batch: int, examples: int, draw: int
) -> Payload:
    """The answer of a device over so many ``examples``, which come anew each time, in batches of at most ``batch``.

    A net that draws does so by ``draw``.
    """
    layers, fractions = request.values["layers"], request.values["fractions"]
    own = device.native(request, request.tensors)
    load = native.loading(own, batch) if own is not None else None

    def outputs(params: Params) -> Tensor:
        if load is not None:
            run = load(params)
            return np.concatenate([run(inputs, labels)[0] for inputs, labels in batches()])
        with draws.seeded(draw):
            return training.predict(device.model(params), batches())

    found = np.zeros((2, len(layers), len(fractions)))
    whole = outputs(request.tensors) if examples else np.zeros((0, 1))
    for row, name in enumerate(layers if examples else ()):
        weight = request.tensors[name]
        for column, fraction in enumerate(fractions):
            kept = top_k(np.abs(weight), kept_of(weight, fraction))
            apart = outputs({**request.tensors, name: np.where(kept, weight, np.float32(0))}) - whole
            each = np.square(apart, dtype=np.float64).reshape(examples, -1).sum(1)
            found[:, row, column] = each.sum(), each.max()
    return Payload({"examples": examples}, {SUM: found[0], WORST: found[1]})


def _merge(answers: Sequence[Payload], args: Curves) -> dict[str, Tensor]:
    total = sum(number(answer, "examples") for answer in answers)
    if not total:
        return {}
    return {
        "mean": np.sum([answer.tensors[SUM] for answer in answers], axis=0) / total,
        "worst": np.max([answer.tensors[WORST] for answer in answers], axis=0),
        "examples": np.asarray(int(total)),
    }


def _check(answer: Payload, args: Curves, model: Model) -> None:
    bounded(answer, args, count(answer, "examples", most=args.examples))


def bounded(answer: Payload, args: Curves, inputs: int) -> None:
    """ValueError where an answer's numbers are none that so many ``inputs`` can have."""
    shape = len(args.layers), len(args.fractions)
    finite(answer, {SUM: shape, WORST: shape}, "float64")
    total, worst = answer.tensors[SUM], answer.tensors[WORST]
    if np.any(worst < 0) or np.any(total < worst * (1 - _SLACK)) or np.any(total > inputs * worst * (1 + _SLACK)):
        raise ValueError(f"a sum of distances is none of {inputs} inputs with that greatest one")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # of one layer its sizes, their order and what is left of it
    return 16 * max((prod(shape) for shape in shapes.values()), default=0)


def _answers(args: Curves, model: Model) -> int:
    return 2 * (8 * len(args.layers) * len(args.fractions) + len(WORST) + FRAME)


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
