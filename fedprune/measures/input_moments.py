"""Mean and variance of what layers read, column by column: what a weight's input carries, and how much of it varies.

Asked with the names of weights. Evidence is, of those of linear layers and convolutions, with or without groups,
``layer/mean`` and ``layer/variance``, (groups, *weight.shape[1:]) float64, over all training examples and positions,
``layer/positions``, how many rows that are, and ``examples``. A column's Σ x² over all rows is positions · (variance +
mean²). Outputs are those of evaluation. Two numbers a column travel, however many outputs read it. Of other layers,
such as attention's first projection, there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from fedprune.aggregation import pooled
from fedprune.measures import Kind, Measurer, _layers, finite
from fedprune.models import draws
from fedprune.training import native_input_moments
from fedprune.training.input_moments import input_moments
from fedprune.types import Model, Moments, Tensor
from fedprune.wire import FRAME
from fedprune.wire.payload import Payload, count, number

_FOUND, _POSITIONS = "moments/", "positions"


def _measure(device: Measurer, request: Payload, most: int) -> Payload:
    examples, size = device.parts.train, min(most or _layers.BATCH, _layers.BATCH)
    batches, layers = device.batches(examples, size), request.values["layers"]
    if (own := device.native(request, request.tensors)) is not None:
        found = native_input_moments.input_moments(own, batches, layers, size)
    else:
        model = device.model(request.tensors)
        with draws.seeded(device.number("input_moments")):
            found = input_moments(model, batches, layers)
    fans = {name: request.tensors[name].shape[1:] for name in layers}
    both = {n: np.stack([m.mean, m.variance]).astype(np.float32).reshape(2, -1, *fans[n]) for n, m in found.items()}
    positions = {name: each.examples for name, each in found.items()}
    return Payload({"examples": len(examples), _POSITIONS: positions}, _layers.named(_FOUND, both))


def _merge(answers: Sequence[Payload], args: Sequence[str]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for name in args:
        given = [(each.tensors[_FOUND + name], each.values[_POSITIONS][name]) for each in answers]
        # of how many groups a layer is, most of those who have examples say
        widths = Counter(both.shape[1:] for both, positions in given if positions)
        if not widths:
            continue
        shape = max(widths, key=lambda each: (widths[each], each))
        whole = pooled([Moments(both[0], both[1], n) for both, n in given if n and both.shape[1:] == shape])
        merged |= {f"{name}/mean": whole.mean, f"{name}/variance": whole.variance}
        merged[f"{name}/{_POSITIONS}"] = np.asarray(whole.examples)
    return {**merged, "examples": np.asarray(sum(number(each, "examples") for each in answers))} if merged else {}


def _check(answer: Payload, args: Sequence[str], model: Model) -> None:
    examples, positions = count(answer, "examples"), answer.values.get(_POSITIONS)
    if not isinstance(positions, Mapping) or positions.keys() != set(args):
        raise ValueError("expected the number of positions of every layer asked for")
    finite(answer, {_FOUND + name: (2, *_columns(answer, name, model)) for name in args})
    for name in args:
        rows = count(Payload(positions), name, most=2**53)
        if rows and not 0 < examples <= rows:
            raise ValueError(f"{name}: {rows} positions of {examples} examples")
        if np.any(answer.tensors[_FOUND + name][1] < 0):
            raise ValueError(f"{name}: a variance is below 0")


def _columns(answer: Payload, name: str, model: Model) -> tuple[int, ...]:
    """The shape of a layer's columns, of as many groups as the answer has, if its outputs may be shared so."""
    outputs, *fan = model.params[name].shape
    given = answer.tensors.get(_FOUND + name, np.zeros(0)).shape
    groups = given[1] if len(given) > 1 else 1
    return (groups if groups and outputs % groups == 0 else 1, *fan)


def _memory(shapes: Mapping[str, tuple[int, ...]]) -> int:
    # of at most as many columns as weights mean and variance, and those of some rows more, float64
    return 4 * 8 * sum(prod(shape) for shape in shapes.values() if len(shape) > 1)


def _answers(args: Sequence[str], model: Model) -> int:
    return sum(2 * 4 * model.params[name].size + 2 * len(name) + FRAME for name in args)


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
