"""Compaction: from a graph with zeros in its weights to a smaller one that computes the same function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np

from fedprune.graph.activations import Binary, Constant, LogSoftmax, PRelu, Softmax, Unary
from fedprune.graph.cutting import cut, is_depthwise
from fedprune.graph.labels import FIXED, Units
from fedprune.graph.operations import (
    BatchNorm,
    Conv2d,
    Embedding,
    Graph,
    GroupNorm,
    LayerNorm,
    Linear,
    MatMul,
    Operation,
    Parameter,
    TransposedConv2d,
    producers,
)
from fedprune.graph.recurrent import Recurrent
from fedprune.graph.running import RULES, run
from fedprune.graph.units import units
from fedprune.types import FloatTensor, Tensor

_SAME = 1e-5
"""How far the smaller graph may stray from the whole one on noise, beside its largest output."""
_STILL = 1e-6


class Reader(NamedTuple):
    """A layer that takes units in by the columns of its weight."""

    op: Conv2d | Linear | TransposedConv2d
    labels: Tensor
    """Unit of each input channel."""

    def columns(self) -> FloatTensor:
        """(inputs, weights of each): what it does with them."""
        weight = self.op.weight.value
        if isinstance(self.op, TransposedConv2d):
            return weight.reshape(len(weight), -1)
        if isinstance(self.op, Conv2d) and self.op.groups > 1:
            groups = weight.reshape(self.op.groups, -1, *weight.shape[1:])  # (groups, out, in, rows, columns)
            return np.moveaxis(groups, 2, 1).reshape(self.op.groups * weight.shape[1], -1)
        return np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)

    def without(self, places: Tensor) -> FloatTensor:
        """Its weight with zeros for some inputs, (inputs,) booleans."""
        weight = self.op.weight.value.copy()
        if isinstance(self.op, TransposedConv2d):
            weight[places] = 0
        elif isinstance(self.op, Conv2d) and self.op.groups > 1:
            for rows, part in zip(np.split(weight, self.op.groups), np.split(places, self.op.groups), strict=True):
                rows[:, part] = 0
        else:
            weight[:, places] = 0
        return weight


def compact(graph: Graph) -> Graph:
    """Return the graph without units that nothing needs: the same outputs to rounding, in fewer values.

    A unit goes where each layer that reads it has only zeros for it, or receives from it what no input can change and
    its bias can carry (under zero padding a constant is none at the border, so there the unit stays). Batch norms are
    to be folded before. One unit of those that lie along an axis always stays. The graph itself is returned where
    nothing can go, or where the smaller one would not be the same on noise.
    """
    told = units(graph)
    lines, work, removed = _lines(told), graph, set[int]()
    while found := _needless(work, told, lines, removed):
        work = _silenced(work, told, found)
        removed |= found
    if not removed:
        return graph
    smaller = cut(work, told, removed)
    return smaller if _is_same(graph, smaller) else graph


def readers(graph: Graph, told: Units) -> Iterator[Reader]:
    """The layers that mix units, each with those that it reads."""
    for op in graph.operations:
        if (isinstance(op, Conv2d) and not is_depthwise(graph, op)) or isinstance(op, TransposedConv2d):
            yield Reader(op, told.of(op.inputs[0], 1))
        elif isinstance(op, Linear):
            yield Reader(op, told.of(op.inputs[0], len(graph.shapes[op.inputs[0]]) - 1))


def _needless(graph: Graph, told: Units, lines: list[set[int]], removed: set[int]) -> set[int]:
    values, reached = run(graph, noise(graph, 2)), _reached(graph)
    needless = set[int]().union(*lines) - removed - {FIXED}
    # what something other than a reader's columns mixes in was fixed when units were told; the rest is read by these
    for reader in readers(graph, told):
        used = reader.columns().any(axis=1)
        for label in {int(each) for each in reader.labels} & needless:
            places = (reader.labels == label) & used
            if places.any() and not _carried(reader, places, values, reached):
                needless.discard(label)
    for line in lines:  # a tensor of no channels is none
        left = line - removed
        if FIXED not in line and left and left <= needless:
            needless.discard(min(left))
    return needless


def _lines(told: Units) -> list[set[int]]:
    """The units along each axis of each tensor, each such set once."""
    found = {tuple(sorted(set(told.resolved(axis).tolist()))) for labels in told.labels.values() for axis in labels}
    return [set(line) for line in found]


def noise(graph: Graph, count: int, seed: int = 0) -> Tensor:
    """So many inputs of a graph: noise, or any tokens."""
    shape = (count, *graph.shapes[graph.input][1:])
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    tables = [len(op.weight.value) for op in graph.operations if isinstance(op, Embedding)]
    return np.floor(np.abs(noise) * min(tables) / 8) % min(tables) if tables else noise


def _seen(reader: Reader, values: Mapping[str, Tensor]) -> Tensor:
    """(inputs, values of each) that a reader gets."""
    axis = -1 if isinstance(reader.op, Linear) else 1
    found: Tensor = np.moveaxis(values[reader.op.inputs[0]], axis, 0)
    return found.reshape(len(found), -1)


def _carried(reader: Reader, places: Tensor, values: Mapping[str, Tensor], reached: Mapping[str, Tensor]) -> bool:
    """Whether a reader's bias can carry what comes in at some places."""
    if _seen(reader, reached)[places].any():
        return False
    seen = _seen(reader, values)[places]
    if not seen.any():
        return True
    op = reader.op
    padded = isinstance(op, TransposedConv2d) or (isinstance(op, Conv2d) and any(sum(sides) for sides in op.padding))
    return not padded and bool(np.ptp(seen, axis=1).max() <= _STILL * np.abs(seen).max())


def _silenced(graph: Graph, told: Units, gone: set[int]) -> Graph:
    """The graph with these units read by nobody and made of zeros, what they added in the biases of their readers."""
    values = run(graph, noise(graph, 1))
    changed = dict[str, Operation]()
    for reader in readers(graph, told):
        op, places = reader.op, np.isin(reader.labels, list(gone))
        if not places.any():
            continue
        bias = op.bias
        if not isinstance(op, TransposedConv2d) and reader.columns()[places].any():
            constant = np.where(places, _seen(reader, values)[:, 0], 0.0).astype(np.float64)
            added = _response(op, constant)
            if added.any():
                before = 0.0 if bias is None else bias.value
                name = f"{op.weight.name}.bias" if bias is None else bias.name
                bias = Parameter(name, (before + added).astype(np.float32))
        changed[op.output] = replace(op, weight=Parameter(op.weight.name, reader.without(places)), bias=bias)
    for name, made in producers(graph).items():
        maker = changed.get(name, made)
        rows = _rows(graph, told, maker)
        if rows is not None and (lost := np.isin(rows, list(gone))).any():
            changed[name] = _without_rows(maker, lost)
    operations = tuple(changed.get(op.output, op) for op in graph.operations)
    return replace(graph, operations=operations)


def _without_rows(op: Operation, lost: Tensor) -> Operation:
    given: dict[str, Any] = {}
    for key, value in vars(op).items():
        if isinstance(value, Parameter) and key in ("weight", "bias"):
            axis = 1 if key == "weight" and isinstance(op, TransposedConv2d | Embedding) else 0
            zeroed = value.value.copy()
            np.moveaxis(zeroed, axis, 0)[lost] = 0
            given[key] = Parameter(value.name, zeroed)
    return replace(op, **given)


def _response(op: Conv2d | Linear, constant: FloatTensor) -> FloatTensor:
    """What each output gets of inputs that are constant over the map."""
    weight = op.weight.value
    summed = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(axis=2)  # (out, in of a group)
    if isinstance(op, Conv2d) and op.groups > 1:
        parts = np.split(constant, op.groups)
        each = np.split(summed, op.groups)
        return np.concatenate([rows @ part for rows, part in zip(each, parts, strict=True)])
    result: FloatTensor = summed @ constant
    return result


def _rows(graph: Graph, told: Units, op: Operation) -> Tensor | None:
    """Units of what an operation makes with rows of its own, or scales by channel."""
    if isinstance(op, Conv2d | TransposedConv2d | GroupNorm):
        return told.of(op.output, 1)
    if isinstance(op, Linear | Embedding):
        return told.of(op.output, len(graph.shapes[op.output]) - 1)
    return None


def _reached(graph: Graph) -> dict[str, Tensor]:
    """Which values the input can change: not 0 where it can.

    With every weight that is not zero one, no biases and a positive input, all values are non-negative, and 0 is what
    no chain of weights connects to the input.
    """
    import torch

    values: dict[str, torch.Tensor] = {graph.input: torch.ones(graph.shapes[graph.input])}
    with torch.no_grad():
        for op in graph.operations:
            given = [values[name] for name in op.inputs]
            shape = graph.shapes[op.output]
            if isinstance(op, Constant):
                values[op.output] = torch.zeros(shape)
            elif isinstance(op, Embedding):
                values[op.output] = torch.ones(shape)
            elif isinstance(op, get_args(Unary) + (PRelu, BatchNorm)):  # noqa: RUF005
                values[op.output] = given[0]
            elif isinstance(op, get_args(Binary)):
                values[op.output] = torch.broadcast_to(given[0] + given[1], shape).sign()
            elif isinstance(op, Softmax | LogSoftmax | LayerNorm | GroupNorm | MatMul | Recurrent):
                whole = sum(each.abs().sum() for each in given)
                values[op.output] = torch.full(shape, float(whole > 0))
            else:
                result = RULES[type(op)](_pattern(op), shape, *given)
                values[op.output] = result.sign()
    return {name: value.numpy() for name, value in values.items()}


def _pattern(op: Operation) -> Operation:
    if not isinstance(op, Conv2d | Linear | TransposedConv2d):
        return op
    ones = (op.weight.value != 0).astype(np.float32)
    return replace(op, weight=Parameter(op.weight.name, ones), bias=None)


def _is_same(graph: Graph, smaller: Graph) -> bool:
    given = noise(graph, 3, seed=1)
    before, after = run(graph, given), run(smaller, given)
    return all(
        np.abs(before[name] - after[name]).max() <= _SAME * max(1.0, float(np.abs(before[name]).max()))
        for name in graph.outputs
    )
