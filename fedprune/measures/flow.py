"""∂R/∂θ of whole layers at |θ|, R the flow of ones through the net of absolute weights: what SynFlow scores by.

Asked with `Thinned`. Evidence is each layer's gradient, float64, 0 where the net was thinned. It looks at no example,
so that every device's answer is the same and says nothing of its data; so a device may as well thin the net itself
before it answers, where sending every step's masks would cost a model a step. See
`fedprune.training.gradients.flow` for R.
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
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.training.gradients import flow
from fedprune.types import Model, Tensor
from fedprune.wire.payload import Payload, count

_FLOW = "flow/"
_MOST_STEPS = 1000


class Thinned(NamedTuple):
    """Of which layers, and how thin the net is made first."""

    layers: Sequence[str]
    densities: Sequence[float] = ()
    """Of the layers together, one after the other: after each the best |θ · ∂R/∂θ| of all layers are kept."""


class _Asked(msgspec.Struct):
    layers: Annotated[list[str], Meta(min_length=1)]
    densities: Annotated[list[Annotated[float, Meta(gt=0, le=1)]], Meta(max_length=_MOST_STEPS)]


def _request(model: Model, args: Thinned) -> Payload:
    return Payload({"layers": list(args.layers), "densities": list(args.densities)}, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    layers, densities = request.values["layers"], request.values["densities"]
    weights = {name: request.tensors[name] for name in layers}
    kept = {name: request.masks.get(name, np.ones(value.shape, np.bool_)) for name, value in weights.items()}
    thin = prune(criteria.saliency, lambda step: float(densities[step]), allocate=ranked())

    def measured() -> dict[str, Tensor]:
        model = device.model(masks.apply(request.tensors, kept))
        # not the device's own number: a net that draws would tell devices apart
        with draws.seeded(device.experiment.seed):
            return flow(model, device.schema.input_shape, layers)

    for step in range(len(densities)):
        kept = dict(thin.update(kept, {"weight": weights, "grad": measured()}, step))
    found = masks.apply(measured(), kept) if densities else measured()
    return Payload({"examples": len(device.parts.train)}, _layers.named(_FLOW, found))


def _merge(answers: Sequence[Payload], args: Thinned) -> dict[str, Tensor]:
    return _layers.mean(_FLOW, args.layers, answers, [1.0] * len(answers))


def _check(answer: Payload, args: Thinned, model: Model) -> None:
    count(answer, "examples")
    finite(answer, _layers.shapes(_FLOW, args.layers, model), "float64")


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # absolute weights, their gradients and the answer; scores and their order while it is thinned; all float64
    return sum(5 * 8 * prod(shape) for shape in shapes.values())


def _answers(args: Thinned, model: Model) -> int:
    return _layers.sizes(args.layers, model, 8)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_layers.accepts,
    private=True,
    backward=True,
    memory=_memory,
    answers=_answers,
)
