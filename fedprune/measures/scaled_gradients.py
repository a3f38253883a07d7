"""∂L/∂θ of whole layers as in `gradients`, with some of the weights scaled: on the way to a model without them.

Asked with `Scaled`. Devices get the scaled weights and know nothing of it; evidence is that of `gradients`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedprune.measures import Kind, _layers, gradients
from fedprune.types import Model, Params, Tensor
from fedprune.wire.payload import Payload


class Scaled(NamedTuple):
    """Of which layers the gradient, and where."""

    layers: Sequence[str]
    scales: Params
    """By what tensors are multiplied, of shapes that broadcast to those that their holders have; the others by 1."""


def _request(model: Model, args: Scaled) -> Payload:
    there = {n: (model.params[n] * by).astype(model.params[n].dtype) for n, by in args.scales.items()}
    return _layers.request(model._replace(params={**model.params, **there}), args.layers)


def _merge(answers: Sequence[Payload], args: Scaled) -> dict[str, Tensor]:
    return dict(gradients.KIND.merge(answers, args.layers))


def _check(answer: Payload, args: Scaled, model: Model) -> None:
    gradients.KIND.check(answer, args.layers, model)


KIND: Kind = gradients.KIND._replace(merge=_merge, check=_check, request=_request)
