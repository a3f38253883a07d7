"""The steps that compute gradients: of what each node holds, and of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fedprune.graph import (
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    GlobalMean,
    Linear,
    MaxPool,
    Multiply,
    Pad,
    Reshape,
)
from fedprune.native.arena import Buffer
from fedprune.native.forwards import FUNCTIONS, Forwards, bounds, further, inside, pooled, reshaped
from fedprune.native.maps import Halo, Held, flat, held, strided
from fedprune.native.nodes import Node
from fedprune.native.state import State
from fedprune.native.steps import FREE, NO_MAP, Clip, Kind, Map, Place, Size
from fedprune.native.weights import Entries, Phase, Shared, backwards, forwards, window
from fedprune.types import Tensor

_BAND = 2**18
"""Elements of an input that are read again and again before the next ones: what a processor's cache holds."""
_G_AT, _G_CHANNEL, _X_AT, _ROWS, _X_GROUP = 1, 2, 6, 11, 15  # fields of a step of dense weights
_VECTOR = 16  # the most lanes that a partial sum has


class Asked(NamedTuple):
    """A layer whose whole gradient is to be had where a program has come to a step."""

    name: str
    step: int
    rows: int
    """At a time, at most."""
    group: int
    """Rows that read the same channels."""
    into: Buffer

    def of_rows(self, encoded: Tensor, first: int, count: int) -> Tensor:
        """The encoded step, for other rows, all of one group."""
        row = encoded.copy()
        row[_G_AT] += first * row[_G_CHANNEL]
        row[_X_AT] += first // self.group * row[_X_GROUP]
        row[_ROWS] = count
        return row[np.newaxis]


@dataclass(eq=False)
class Backwards:
    """Emits nodes' gradients after those of all that read their outputs."""

    forwards: Forwards
    needed: frozenset[str]
    """Tensors whose gradients anything needs."""
    output: str
    """The tensor that is read when all is done."""
    halos: Mapping[str, Halo]
    """Of gradients."""
    gradients: dict[str, Held] = field(default_factory=dict)
    grown: Mapping[str, Buffer] = field(default_factory=dict)
    """Layers whose whole gradient is wanted, a few rows at a time -> where these go."""
    framed: set[Buffer] = field(default_factory=set)
    """Of gradients whose halo is 0."""
    asked: list[Asked] = field(default_factory=list)
    """In the order in which they come."""

    @property
    def state(self) -> State:
        """What the program holds."""
        return self.forwards.state

    def emit(self, kind: Kind, *fields: object) -> None:
        """Add a step."""
        self.forwards.emit(kind, *fields)

    def gradient(self, name: str) -> tuple[Held, int]:
        """(where the gradient of a tensor goes, whether there is one already, to add to)."""
        found = self.gradients.get(name)
        if found is not None:
            return found, 1
        size = self.forwards.sizes[name]
        self.gradients[name] = held(size, self.halos.get(name, (0, 0)), self.forwards.lanes)
        return self.gradients[name], 0

    def _takes_over(self, name: str, g: Held) -> bool:
        """Make ``g`` the gradient of another tensor as well, where it may be and has the halo for it."""
        if name not in self.needed or name in self.gradients:
            return False
        want = self.halos.get(name, (0, 0))
        if g.halo[0] < want[0] or g.halo[1] < want[1]:
            return False
        self.gradients[name] = g
        return True

    def _passes_on(self, name: str, g: Map) -> None:
        """Add ``g`` to the gradient of a tensor."""
        if name in self.needed:
            to, adds = self.gradient(name)
            self.emit(Kind.COPY, g, to.map, to.size, adds)

    def run(self, node: Node) -> None:
        """Emit a node; nothing where no gradient of its output is known."""
        g = self.gradients.get(node.output)
        if g is None:
            return
        op, maps, clip = node.op, self.forwards.maps, bounds(node.bounds)
        if isinstance(op, BatchNorm):
            self._norm(node, op, g, clip)
            return
        if isinstance(op, Conv2d | Linear | Add | Multiply | MaxPool | AvgPool) and clip != FREE:
            self.emit(Kind.CLIP_BACK, maps[node.output].map, g.map, g.size, clip)
        if isinstance(op, Conv2d | Linear):
            self._weighted(op, node.inputs[0], g)
        elif isinstance(op, Add):
            taken = False  # by one alone, as g becomes something else on its way on
            for name in node.inputs:
                if not taken and self._takes_over(name, g):
                    taken = True
                else:
                    self._passes_on(name, g.map)
            if taken:  # what is added to g from now on is of an input
                self.gradients.pop(node.output)
        elif isinstance(op, Multiply):
            self._multiply(node, g)
        elif isinstance(op, MaxPool | AvgPool | GlobalMean):
            self._pool(op, node, g)
        elif isinstance(op, Dropout):
            name = node.inputs[0]
            if name in self.needed:
                to, adds = (g, 0) if self._takes_over(name, g) else self.gradient(name)
                self.forwards.drop(op, g.map, to.map, g.size, adds)
        elif isinstance(op, Concat):
            channel = 0
            for name in node.inputs:
                self._passes_on(name, further(g.map, channel))
                channel += self.forwards.sizes[name].channels
        elif isinstance(op, Pad):
            self._passes_on(node.inputs[0], inside(op, g))
        elif isinstance(op, Reshape):
            if node.inputs[0] in self.needed:
                to, adds = self.gradient(node.inputs[0])
                to_map, from_map, size = reshaped(to, g)
                self.emit(Kind.COPY, from_map, to_map, size, adds)
        elif node.inputs[0] in self.needed:
            to, adds = self.gradient(node.inputs[0])
            x, y = maps[node.inputs[0]].map, maps[node.output].map
            self.emit(Kind.UNARY_BACK, x, y, g.map, to.map, g.size, FUNCTIONS[type(op)], adds, clip)

    def _weighted(self, op: Conv2d | Linear, name: str, g: Held) -> None:
        own, of, x = window(op), self.state.entries(op.weight.name), self.forwards.maps[name]
        given = strided(x.map, own.stride)
        to = self.state.gradient(op.weight.name)
        if op.weight.name in self.grown:
            self._whole(op, x, g)
        elif to is not None:
            reads, size = forwards(own, of, x.map), flat(g.size, g.map, given)
            row = x.size.channels * given.row if size.height > 1 else 0
            band = size.height if row * size.height <= _BAND else max(1, _BAND // row)
            partial = Place(Buffer(of.values * _VECTOR if band < size.height else 1))
            offsets = self.state.constant(reads.offsets)
            if isinstance(reads, Shared):
                each = size._replace(channels=size.channels // own.groups)
                self.emit(
                    Kind.DENSE_WEIGHT_GRADIENT, g.map, given, each, own.groups, reads.x_group, len(reads.offsets),
                    offsets, to, partial, band,
                )  # fmt: skip
            else:
                starts = self.state.constant(reads.starts)
                self.emit(Kind.WEIGHT_GRADIENT, g.map, given, size, starts, offsets, to, partial, band)
        if op.bias is not None and (to := self.state.gradient(op.bias.name)) is not None:
            self.emit(Kind.BIAS_GRADIENT, g.map, g.size, to)
        if name in self.needed:
            if g.buffer not in self.framed:
                self.forwards.clear(g)
            back, adds = self.gradient(name)
            for phase in backwards(own, of, x.size, g.map):
                self._phase(op, phase, back, g, adds)

    def _whole(self, op: Conv2d | Linear, x: Held, g: Held) -> None:
        """A step for some rows of a layer's whole gradient, to be run with other rows by whoever runs the program."""
        own, of, into = window(op), self.state.entries(op.weight.name), self.grown[op.weight.name]
        reads = forwards(own, Entries(of.shape, None, 0), x.map)
        assert isinstance(reads, Shared)
        given = strided(x.map, own.stride)
        rows = into.elements // len(reads.offsets)
        self.asked.append(Asked(op.weight.name, len(self.forwards.steps), rows, of.shape[0] // own.groups, into))
        size, offsets = Size(rows, g.size.height, g.size.width), self.state.constant(reads.offsets)
        self.emit(
            Kind.DENSE_WEIGHT_GRADIENT, g.map, given, size, 1, reads.x_group, len(reads.offsets), offsets, Place(into),
            None, size.height,
        )  # fmt: skip

    def _phase(self, op: Conv2d | Linear, phase: Phase, back: Held, g: Held, adds: int) -> None:
        own, weights = window(op), self.state.value(op.weight.name)
        to = back.shifted(*phase.first)
        to = to._replace(row=to.row * own.stride[0], step=to.step * own.stride[1])
        given, size = strided(g.map, (1, 1)), Size(back.size.channels, phase.height, phase.width)
        self.forwards.gather(phase.rows, to, given, size, own.groups, weights, None, adds, None, None, FREE)

    def _norm(self, node: Node, op: BatchNorm, g: Held, clip: Clip) -> None:
        maps, norm, name = self.forwards.maps, self.forwards.norms[node.output], node.inputs[0]
        other, adds = NO_MAP, 0
        if node.other is not None and node.other in self.needed:
            # in the place of the output, of which each value is read for the last time just before
            taken = node.output != self.output and self._takes_over(node.other, maps[node.output])
            into, known = self.gradient(node.other)
            other, adds = into.map, int(known and not taken)
        scale = [self.state.value(each.name) if each is not None else None for each in (op.weight, op.bias)]
        y = maps[node.output].map if node.other is not None else NO_MAP
        to = [self.state.gradient(each.name) if each is not None else None for each in (op.weight, op.bias)]
        self.framed.add(g.buffer)
        self.emit(
            Kind.NORMALISE_BACK, maps[name].map, y, g.map, other, g.size, *g.halo, Place(norm.mean),
            Place(norm.inverse), *scale, *to, int(node.output in self.forwards.at_rest), adds, clip,
        )  # fmt: skip
        if not self._takes_over(name, g):
            self._passes_on(name, g.map)

    def _multiply(self, node: Node, g: Held) -> None:
        maps, sizes = self.forwards.maps, self.forwards.sizes
        a, b = node.inputs
        if sizes[a] != g.size:
            a, b = b, a
        alone, to = int(sizes[b] != sizes[a]), []
        for name in (a, b):
            own, adds = self.gradient(name) if name in self.needed else (None, 0)
            own = own or held(sizes[name], (0, 0), self.forwards.lanes)
            to.append((own.map, adds))
        (ga, a_adds), (gb, b_adds) = to
        self.emit(Kind.MULTIPLY_BACK, maps[a].map, maps[b].map, g.map, ga, gb, g.size, alone, a_adds, b_adds)

    def _pool(self, op: MaxPool | AvgPool | GlobalMean, node: Node, g: Held) -> None:
        name = node.inputs[0]
        if name not in self.needed:
            return
        to, adds = self.gradient(name)
        if not adds:
            self.emit(Kind.ZERO, Place(to.buffer), to.buffer.elements)
        maps = self.forwards.maps
        x, y = maps[name].map, maps[node.output].map
        self.emit(Kind.POOL_BACK, x, y, g.map, to.map, g.size, *pooled(op, self.forwards.sizes[name]))
