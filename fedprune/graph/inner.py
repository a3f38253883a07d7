"""Channels that the graph alone follows: heads and neurons of transformers, and those of grouped convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedprune.graph import width
from fedprune.graph.activations import Constant
from fedprune.graph.compaction import noise
from fedprune.graph.coupling import Group, Member, coupled_channels
from fedprune.graph.cutting import is_depthwise
from fedprune.graph.labels import FIXED, Units
from fedprune.graph.operations import BatchNorm, Conv2d, Graph, Linear, Operation, consumers, parameters, producers
from fedprune.graph.shared import second_names, unique_state
from fedprune.graph.tracing import trace
from fedprune.graph.units import units
from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

_SAME = 1e-5
"""How far a net without some channels may stray from the masked one, beside its largest output."""


class _Line(NamedTuple):
    """A parameter along one of its axes, and the unit of each of its places there."""

    name: str
    dim: int
    units: Tensor
    groups: int = 1
    """Of a convolution whose columns these are: all of its groups have them."""
    makes: bool = False
    """Whether it is a layer's rows that make its units, and do not only scale them."""


def all_groups(model: nn.Module, example: torch.Tensor) -> tuple[Group, ...]:
    """`coupled_channels`, and after them those that the graph alone tells, in its order; the model is left as it was.

    Of the latter it is tried whether the net runs without half of a group's channels, and says what it says with these
    masked: a net whose code knows its widths does not. ``example`` is a batch, of which shape and type matter.
    """
    first = coupled_channels(model, example)
    taken = {(member.name, member.dim) for group in first for member in group.members}
    free = [name for name, value in model.named_parameters() if value.ndim > 1 and (name, 0) not in taken]
    if len(free) < 2:  # one is the last
        return first
    try:
        told = units(trace(model, example))
    except Exception:  # whatever the net's own code raises, or what the graph has no word for
        return first
    shapes = {name: tuple(value.shape) for name, value in unique_state(model).items()}
    shared = {*second_names(model).values()}
    found = [
        group
        for group in _told(told, shapes)
        if not any((member.name, member.dim) in taken or member.name in shared for member in group.members)
    ]
    held = found if _holds(model, example, found, told) else [g for g in found if _holds(model, example, [g], told)]
    return (*first, *held)


def _told(told: Units, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Group]:
    """Units that layers make by their rows and others read by columns: those that one layer makes are a group."""
    lines = [line for op in told.graph.operations for line in _lines(told, op)]
    constants = [line for op in told.graph.operations for line in _constants(told, op, shapes)]
    made: dict[frozenset[int], _Line] = {}
    for line in lines:
        if line.makes:
            made.setdefault(frozenset(line.units.tolist()), line)
    norms = _norms(told.graph)
    many = Counter(label for labels in made for label in labels)
    for labels, first in made.items():
        if FIXED in labels or len(labels) < 2 or any(many[label] > 1 for label in labels):
            continue
        order = list(dict.fromkeys(first.units.tolist()))
        members, beside = (_members(each, order, shapes) for each in (lines, constants))
        if members is None or beside is None:
            continue
        if any(not member.produces for member in members):
            own = {member.layer: norms[member.layer] for member in members if member.layer in norms}
            ordered = tuple(sorted(members, key=lambda m: m.dim))
            yield Group(_layer(first.name), len(order), ordered, own, tuple(beside))


def _members(
    lines: Sequence[_Line], order: Sequence[int], shapes: Mapping[str, tuple[int, ...]]
) -> list[Member] | None:
    """Of the lines that these units touch; None where one of them cannot be cut along them."""
    touched = [line for line in lines if not set(order).isdisjoint(line.units.tolist())]
    at = [_positions(line.units, order) for line in touched]
    if any(each is None for each in at) or any(line.name not in shapes for line in touched):
        return None
    return [
        Member(line.name, shapes[line.name], line.dim, each, not line.dim, line.groups)
        for line, each in zip(touched, at, strict=True)
        if each is not None
    ]


def _layer(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _norms(graph: Graph) -> dict[str, str]:
    """Layer -> the batch norm that alone reads its output."""
    made, readers = producers(graph), consumers(graph)
    pairs = [(made.get(op.inputs[0]), op) for op in graph.operations if isinstance(op, BatchNorm)]
    return {
        _layer(maker.weight.name): _layer(norm.mean.name)
        for maker, norm in pairs
        if isinstance(maker, Linear | Conv2d) and len(readers[maker.output]) == 1
    }


def _lines(told: Units, op: Operation) -> Iterator[_Line]:
    """What an operation's parameters have of units along their axes."""
    shapes = told.graph.shapes
    if isinstance(op, BatchNorm):
        rows = told.of(op.output, 1)
        yield from (_Line(each.name, 0, rows) for each in parameters(op))
    if not isinstance(op, Linear | Conv2d):
        return
    rows, read = (
        told.of(name, 1 if isinstance(op, Conv2d) else len(shapes[name]) - 1) for name in (op.output, op.inputs[0])
    )
    scales = isinstance(op, Conv2d) and is_depthwise(told.graph, op)
    yield _Line(op.weight.name, 0, rows, makes=not scales)
    if op.bias is not None:
        yield _Line(op.bias.name, 0, rows)
    if not scales:
        yield _Line(op.weight.name, 1, read[: op.weight.value.shape[1]], getattr(op, "groups", 1))


def _constants(told: Units, op: Operation, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[_Line]:
    """What a parameter that one operation reads as a constant, such as what is added to scores by head, has of units.

    It may be computed from: an axis of the parameter is taken to be the one of its length in the constant.
    """
    if not isinstance(op, Constant) or op.output not in told.wild or op.value.name not in shapes:
        return
    (reader,) = consumers(told.graph)[op.output]
    for axis, size in enumerate(told.graph.shapes[op.output]):
        rows, dims = told.of(reader.output, axis), [d for d, own in enumerate(shapes[op.value.name]) if own == size]
        if len(rows) == size > 1 and len(dims) == 1:
            yield _Line(op.value.name, dims[0], rows)


def _positions(labels: Tensor, order: Sequence[int]) -> Tensor | None:
    """(channels, k) places of each unit; None where they are not as many of each."""
    found = [np.flatnonzero(labels == label) for label in order]
    return np.stack(found) if len({len(each) for each in found}) == 1 and len(found[0]) else None


def _holds(model: nn.Module, example: torch.Tensor, groups: Sequence[Group], told: Units) -> bool:
    """Whether the net without half of these groups' channels is the net with them masked, on noise."""
    import torch

    net = copy.deepcopy(model).eval().requires_grad_(False)
    state = {name: value.detach().numpy() for name, value in unique_state(net).items()}
    kept = {group.name: np.arange(group.size) % 2 == 0 for group in groups}
    try:
        masks = width.width_masks(groups, {name: value.shape for name, value in state.items()}, kept)
        narrow = {name: torch.from_numpy(value) for name, value in width.narrow(state, masks).items()}
        seen = torch.from_numpy(noise(told.graph, 2)).reshape(2, *example.shape[1:]).to(example.dtype)
        small = width.fit(net, {name: tuple(value.shape) for name, value in narrow.items()})
        small.load_state_dict(narrow, strict=False)
        net.load_state_dict({n: torch.from_numpy(np.where(masks[n], state[n], 0)) for n in masks}, strict=False)
        with torch.no_grad():
            whole, cut = net(seen), small(seen)
        return whole.shape == cut.shape and bool((whole - cut).abs().max() <= _SAME * whole.abs().max())
    except Exception:  # of whatever kind: the net's code knows its widths
        return False
