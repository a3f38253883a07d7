"""The largest gradients of pruned weights: O(k) numbers a layer, which is all that growing needs (FedTiny, eq. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from fedprune.aggregation import merge_top_k
from fedprune.counter_rng import generator
from fedprune.measures import Kind, Measurer, nothing_more
from fedprune.models import Slot, draws
from fedprune.training import evidence, native_growth
from fedprune.types import Model, Tensor, TopK
from fedprune.wire.payload import Payload, count, number

_AT, _GRAD = "at/", "grad/"
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Values(msgspec.Struct):
    round: _Count
    counts: Annotated[dict[str, _Count], Meta(min_length=1)]


def _request(model: Model, args: Any) -> Payload:
    return Payload({"counts": dict(args)}, model.params, model.masks)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    """Positions and signed gradients of the largest |∂L/∂θ| among the pruned weights of each layer asked for."""
    counts = {str(name): int(count) for name, count in request.values["counts"].items()}
    examples, round = device.parts.train, int(request.values["round"])
    rng = generator(device.experiment.seed, "device", device.who, "grow", round)
    chosen = examples.take(rng.permutation(len(examples))[: most or device.experiment.training.grow_batch])
    inputs = device.schema.normalise(chosen.inputs)
    if (own := device.native(request, request.tensors)) is not None:
        smoothing = device.experiment.training.label_smoothing
        found = native_growth.top_gradients(own, inputs, chosen.labels, request.masks, counts, smoothing)
    else:
        model = device.model(request.tensors)
        with draws.seeded(device.number("grow", round)):
            found = evidence.top_gradients(model, inputs, chosen.labels, request.masks, counts, device.task)
    tensors = {}
    for name, top in found.items():
        at = np.zeros(request.masks[name].size, np.bool_)
        at[top.position] = True  # positions ascend, so the values keep their order
        tensors[_AT + name], tensors[_GRAD + name] = at.reshape(request.masks[name].shape), top.value
    return Payload({"examples": len(examples)}, tensors)


def _merge(answers: Sequence[Payload], args: Any) -> dict[str, Tensor]:
    """Layer -> mean gradient over all examples, a missing entry counting 0."""
    return {
        name: merge_top_k(
            [(_top_k(answer, name), number(answer, "examples")) for answer in answers],
            answers[0].tensors[_AT + name].shape,
        )
        for name in args
        if answers
    }


def _check(answer: Payload, args: Any, model: Model) -> None:
    count(answer, "examples", least=1)
    expected = {prefix + name for name in args for prefix in (_AT, _GRAD)}
    if unknown := sorted(answer.tensors.keys() - expected):
        raise ValueError(f"expected positions and gradients of the layers asked for, got {unknown[:3]} as well")
    for name, most in args.items():
        at, value = answer.tensors.get(_AT + name), answer.tensors.get(_GRAD + name)
        if at is None or at.dtype != np.bool_ or at.shape != model.masks[name].shape:
            raise ValueError(f"{name}: expected positions as a mask of shape {model.masks[name].shape}")
        kept = int(np.count_nonzero(at))
        if value is None or value.dtype != np.float32 or value.shape != (kept,) or not np.isfinite(value).all():
            raise ValueError(f"{name}: expected {kept} finite gradients")
        if kept > most or np.any(at & model.masks[name]):
            raise ValueError(f"{name}: expected at most {most} gradients, all of pruned weights")


def _accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    nothing_more(slots, request)
    if unknown := sorted(request.values["counts"].keys() - request.masks.keys()):
        raise ValueError(f"gradients are asked for of {unknown[:3]}, which have no mask")


def _top_k(answer: Payload, name: str) -> TopK:
    return TopK(np.flatnonzero(answer.tensors[_AT + name]), answer.tensors[_GRAD + name])


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # a copy of the largest layer's gradient, its absolute values with and without what is kept, sorted; three masks
    return max(int((4 * 4 + 3) * np.prod(shape)) for shape in shapes.values())


KIND = Kind(
    _measure, _merge, _check, request=_request, values=_Values, accepts=_accepts, backward=True, memory=_memory,
    natively=True,
)  # fmt: skip
"""Asked with layer -> number of gradients."""
