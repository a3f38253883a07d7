"""The range of every activation of a finished model over devices' training parts, which its int8 file needs.

So nobody but the devices needs examples. Asked with the model's graph. Evidence is ``ranges``, (tensors, 2) float32 in
the order of the graph's shapes: the least and the greatest value of each tensor over all devices, and zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np

from fedprune.budgets import arena_bytes
from fedprune.counter_rng import generator
from fedprune.graph import Graph
from fedprune.graph.message import from_message, to_message
from fedprune.measures import Kind, Measurer
from fedprune.models import Slot
from fedprune.native.nodes import not_covered
from fedprune.native.ranges import ranges
from fedprune.training import evidence, native, one_thread
from fedprune.types import Model, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count

_RANGES = "ranges"
_MOST = 500  # examples of a device: as many as of the server's public ones, where they are asked instead
_BATCH = 64
_MOST_VALUES = 2**28  # of a batch


class _Asked(msgspec.Struct):
    graph: dict[str, Any]


def _request(model: Model, args: Graph) -> Payload:
    values, tensors = to_message(args)
    return Payload({"graph": values}, tensors)


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    graph = from_message(request.values["graph"], request.tensors)
    values = sum(prod(shape) for shape in graph.shapes.values())
    batch = max(1, min(_BATCH, _MOST_VALUES // values))
    examples = device.parts.train
    order = generator(device.experiment.seed, "device", device.who, "ranges").permutation(len(examples))
    some = examples.take(order[:_MOST])
    if request.values.get(native.NET) and native.installed() and not_covered(graph) is None:
        batch = min(most or batch, batch)
        found = ranges(graph, (inputs for inputs, _ in device.batches(some, batch)), batch)
    else:
        one_thread()
        if most:  # so many examples fit with the tensors that are alive at once; here all of them are
            batch = max(1, int(arena_bytes(graph) / values * most))
        found = evidence.ranges(graph, (inputs for inputs, _ in device.batches(some, batch)))
    return Payload({"examples": len(examples)}, {_RANGES: found})


def _merge(answers: Sequence[Payload], args: Graph) -> dict[str, Tensor]:
    if not answers:
        return {}
    given = [answer.tensors[_RANGES] for answer in answers]
    # (tensors, 2): the least of the least, the greatest of the greatest
    return {_RANGES: np.stack([np.min(given, axis=0)[:, 0], np.max(given, axis=0)[:, 1]], axis=1)}


def _check(answer: Payload, args: Graph, model: Model) -> None:
    count(answer, "examples")
    if answer.tensors.keys() != {_RANGES}:
        raise ValueError(f"expected the ranges of activations alone, got {sorted(answer.tensors)[:3]}")
    found, shape = answer.tensors[_RANGES], (len(args.shapes), 2)
    if found.dtype != np.float32 or found.shape != shape:
        raise ValueError(f"ranges are {found.dtype}{found.shape}, expected float32{shape}")
    if not np.isfinite(found).all() or np.any(found[:, 0] > 0) or np.any(found[:, 1] < 0):
        raise ValueError("ranges are not finite, or one is without zero")


def _accepts(slots: Mapping[str, Slot], request: Payload) -> None:
    _, tensors = to_message(from_message(request.values["graph"], request.tensors))
    if other := sorted(request.tensors.keys() - tensors.keys()):
        raise ValueError(f"asks with {other[:3]}, which are no weights of the graph")


def _most(slots: Mapping[str, Slot], values: Mapping[str, Any]) -> int:
    """Bytes of a graph's parameters: a weight that several operations share is sent with each of them."""
    found = values["graph"].get("operations")
    operations = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    fields = [field for each in operations for field in each.values() if isinstance(field, dict)]
    names = [str(field["name"]) for field in fields if "name" in field]
    return sum(FRAME + (slots[name].nbytes if name in slots else 0) for name in names)


def _answers(args: Graph, model: Model) -> int:
    return 8 * len(args.shapes)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_request,
    values=_Asked,
    accepts=_accepts,
    carries=False,
    most=_most,
    answers=_answers,
)
