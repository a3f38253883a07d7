"""Sums of xxᵀ over what layers read: all that fitting a layer's outputs anew needs of the data (OBS, SparseGPT).

Asked with the names of weights of linear layers and convolutions without groups. Evidence is, of each, its Gram matrix
XᵀX (fan_in, fan_in), float64 and symmetric, over all training examples and positions, and ``layer/positions``, the rows
of X. See `fedprune.training.gram` for X.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.training import native_gram
from fedprune.training.batches import Batches
from fedprune.training.gram import gram
from fedprune.types import Model, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count

_GRAM, _POSITIONS = "gram/", "positions"


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, size = device.parts.train, min(most or _layers.BATCH, _layers.BATCH)
    return measured(device, request, device.batches(examples, size), size, len(examples))


def measured(device: Measurer, request: Payload, batches: Batches, size: int, examples: int) -> Payload:
    """The upper triangle of each layer's XᵀX in float32, summed in float64: the lower one says nothing new.

    Batches are of at most ``size`` examples.
    """
    if (own := device.native(request, request.tensors)) is not None:
        found = native_gram.gram(own, batches, request.values["layers"], size)
    else:
        model = device.model(request.tensors)
        with draws.seeded(device.number("gram")):
            found = gram(model, batches, request.values["layers"])
    triangles = {name: sums[np.triu_indices(len(sums))].astype(np.float32) for name, (sums, _) in found.items()}
    positions = {name: rows for name, (_, rows) in found.items()}
    return Payload({"examples": examples, _POSITIONS: positions}, _layers.named(_GRAM, triangles))


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name in args if answers else ():
        merged[name] = _whole(sum(answer.tensors[_GRAM + name].astype(np.float64) for answer in answers))
        merged[f"{name}/{_POSITIONS}"] = np.asarray(sum(answer.values[_POSITIONS][name] for answer in answers))
    return merged


def _whole(triangle: Any) -> Tensor:
    side = _side(len(triangle))
    whole = np.zeros((side, side))
    whole[np.triu_indices(side)] = triangle
    return np.where(np.tri(side, k=-1, dtype=np.bool_), whole.T, whole)


def _side(entries: int) -> int:
    return int((np.sqrt(8 * entries + 1) - 1) / 2)


def _check(answer: Payload, args: Sequence[str], model: Model) -> None:
    count(answer, "examples")
    positions = answer.values.get(_POSITIONS)
    if not isinstance(positions, Mapping) or positions.keys() != set(args):
        raise ValueError("expected the number of positions of every layer asked for")
    finite(answer, {_GRAM + name: (_entries(model.params[name].shape),) for name in args})
    for name in args:
        count(Payload(positions), name, most=2**53)
        side = _fan_in(model.params[name].shape)
        rows = np.arange(side)
        # where each row of a flattened upper triangle begins is its entry of the diagonal
        entries = answer.tensors[_GRAM + name]
        squares = entries[rows * side - rows * (rows - 1) // 2].astype(np.float64)
        if np.any(squares < 0):
            raise ValueError(f"{name}: a sum of squares is below 0")
        upper = np.triu_indices(side)
        # Cauchy and Schwarz, and what float32 rounds
        if np.any(np.abs(entries) > 1.001 * np.sqrt(squares[upper[0]] * squares[upper[1]]) + 1e-30):
            raise ValueError(f"{name}: a sum of products is larger than those of squares allow")


def _fan_in(shape: tuple[int, ...]) -> int:
    return prod(shape[1:])


def _entries(shape: tuple[int, ...]) -> int:
    return _fan_in(shape) * (_fan_in(shape) + 1) // 2


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # all sums in float64, and the triangles in float32; then a triangle's two indices and its values before rounding
    entries = [_entries(shape) for shape in shapes.values() if len(shape) > 1]
    return sum(2 * 8 * most + 4 * most for most in entries) + 3 * 8 * max(entries, default=0)


def _answers(args: Sequence[str], model: Model) -> int:
    return sum(4 * _entries(model.params[name].shape) + 2 * len(name) + FRAME for name in args)


KIND = Kind(
    _measure,
    _merge,
    _check,
    request=_layers.request,
    values=_layers.Asked,
    accepts=_layers.accepts_matrices,
    memory=_memory,
    answers=_answers,
    natively=True,
)
