"""The steps that compute each node's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedprune.graph import (
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    GlobalMean,
    HardSwish,
    Linear,
    MaxPool,
    Multiply,
    Pad,
    Reshape,
    Sigmoid,
    Tanh,
)
from fedprune.graph import (
    Clip as GraphClip,
)
from fedprune.graph.operations import Bounds
from fedprune.native.arena import Buffer
from fedprune.native.maps import Halo, Held, Lanes, flat, held, strided
from fedprune.native.nodes import Node
from fedprune.native.state import State
from fedprune.native.steps import FREE, NO_MAP, Clip, Kind, Map, Place, Size, Step, step
from fedprune.native.weights import Rows, Shared, forwards, window

_WORD = 2**32  # values of what is drawn
FUNCTIONS = {GraphClip: 0, Sigmoid: 1, HardSwish: 2, Tanh: 3}


@dataclass(eq=False)
class Norm:
    """What a batch norm goes by in one batch."""

    mean: Buffer
    inverse: Buffer


@dataclass(eq=False)
class Forwards:
    """Emits nodes' steps; what they make is in ``maps``."""

    state: State
    sizes: Mapping[str, Size]
    halos: Mapping[str, Halo]
    lanes: Lanes
    at_rest: frozenset[str] = frozenset()
    """Outputs of batch norms that go by their running statistics."""
    momentum: float | None = -1.0
    """By which running statistics move; None: they stay; below 0: by each norm's own."""
    maps: dict[str, Held] = field(default_factory=dict)
    norms: dict[str, Norm] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    sums: dict[str, Buffer] = field(default_factory=dict)
    """Input of a batch norm -> sums of it that are there already."""
    drawn: Buffer | None = None
    """Where lies what dropout goes by."""
    dropouts: dict[str, int] = field(default_factory=dict)
    """Output of a dropout -> how many come before it."""

    def emit(self, kind: Kind, *fields: object) -> None:
        """Add a step."""
        self.steps.append(step(kind, *fields))  # type: ignore[arg-type]

    def new(self, name: str) -> Held:
        """A buffer for a tensor."""
        self.maps[name] = held(self.sizes[name], self.halos.get(name, (0, 0)), self.lanes)
        return self.maps[name]

    def clear(self, map: Held) -> None:
        """Zero a map's halo."""
        if map.halo != (0, 0):
            self.emit(Kind.HALO, Place(map.buffer), map.size, *map.halo)

    def run(self, node: Node, wants_sums: str | None = None) -> None:
        """Emit a node; ``wants_sums`` names the batch norm that reads its output, if its sums are to be had with it."""
        op, output = node.op, self.new(node.output)
        x = [self.maps[name].map for name in node.inputs]
        size, clip = output.size, bounds(node.bounds)
        if isinstance(op, Conv2d | Linear):
            self._weighted(op, self.maps[node.inputs[0]], output, clip, wants_sums)
        elif isinstance(op, BatchNorm):
            self._norm(node, op, output, clip)
            return  # its halo is 0
        elif isinstance(op, Add | Multiply):
            if output.size != self.sizes[node.inputs[0]]:
                x.reverse()
            alone = self.sizes[node.inputs[0]] != self.sizes[node.inputs[1]]
            self.emit(Kind.BINARY, *x, output.map, size, int(isinstance(op, Multiply)), int(alone), clip)
        elif isinstance(op, MaxPool | AvgPool | GlobalMean):
            self.emit(Kind.POOL, x[0], output.map, size, *pooled(op, self.sizes[node.inputs[0]]), clip)
        elif isinstance(op, Concat):
            channel = 0
            for name, source in zip(node.inputs, x, strict=True):
                self.emit(Kind.COPY, source, further(output.map, channel), self.sizes[name], 0)
                channel += self.sizes[name].channels
        elif isinstance(op, Pad):
            self.emit(Kind.ZERO, Place(output.buffer), output.buffer.elements)
            self.emit(Kind.COPY, x[0], inside(op, output), self.sizes[node.inputs[0]], 0)
        elif isinstance(op, Reshape):
            one, other, of = reshaped(self.maps[node.inputs[0]], output)
            self.emit(Kind.COPY, one, other, of, 0)
        elif isinstance(op, Dropout):
            self.drop(op, x[0], output.map, size, 0)
        else:
            self.emit(Kind.UNARY, x[0], output.map, size, FUNCTIONS[type(op)], clip)
        self.clear(output)

    def drop(self, op: Dropout, x: Map, y: Map, size: Size, adds: int) -> None:
        """Emit what a dropout makes of its input, or of its output's gradient."""
        assert self.drawn is not None
        layer = self.dropouts.setdefault(op.output, len(self.dropouts))
        least = min(round(op.chance * _WORD), _WORD - 1)
        scale = 1 / (1 - op.chance) if op.chance < 1 else 0.0
        self.emit(Kind.DROP, x, y, size, Place(self.drawn), layer, int(op.channels), least, adds, 0, scale)

    def _weighted(self, op: Conv2d | Linear, x: Held, y: Held, clip: Clip, wants_sums: str | None) -> None:
        own, of = window(op), self.state.entries(op.weight.name)
        reads = forwards(own, of, x.map, in_blocks=True)
        bias = self.state.value(op.bias.name) if op.bias is not None else None
        sums = shift = None
        if wants_sums is not None:
            sums = Place(Buffer(y.size.channels * 2 * self.lanes.all))
            self.sums[wants_sums] = sums.buffer
            shift = self.state.value(wants_sums)
        given, weights = strided(x.map, own.stride), self.state.value(op.weight.name)
        self.gather(reads, y.map, given, y.size, own.groups, weights, bias, 0, sums, shift, clip)

    def gather(
        self, reads: Rows | Shared, y: Map, x: Map, size: Size, groups: int, weights: Place, bias: Place | None,
        adds: int, sums: Place | None, shift: Place | None, clip: Clip,
    ) -> None:  # fmt: skip
        """Emit sums over what rows read of ``x``, of a layer or of the gradient of its input, of ``size``."""
        size, offsets = flat(size, y, x), self.state.constant(reads.offsets)
        if isinstance(reads, Shared):
            bases = self.state.constant(reads.bases)
            self.emit(
                Kind.DENSE_GATHER, y, x, size._replace(channels=size.channels // groups), groups, reads.x_group,
                reads.weight_group, len(reads.offsets), offsets, bases, reads.weight_row, weights, bias, adds, sums,
                shift, clip,
            )  # fmt: skip
            return
        starts = self.state.constant(reads.starts)
        index = self.state.constant(reads.index) if reads.index is not None else None
        self.emit(
            Kind.GATHER, y, x, size, reads.blocks, starts, offsets, index, weights, bias, adds, sums, shift, clip
        )  # fmt: skip

    def _norm(self, node: Node, op: BatchNorm, y: Held, clip: Clip) -> None:
        x, names = self.maps[node.inputs[0]], (op.mean.name, op.variance.name)
        mean, variance = map(self.state.value, names)
        known = self.norms.get(node.output)
        norm = known or Norm(Buffer(y.size.channels), Buffer(y.size.channels))
        self.norms[node.output] = norm
        own = Place(norm.mean), Place(norm.inverse)
        if known is None:
            if node.output in self.at_rest:
                self.emit(Kind.AT_REST, y.size.channels, mean, variance, *own, op.epsilon)
            else:
                sums = self.sums.get(op.mean.name)
                if sums is None:
                    sums = Buffer(y.size.channels * 2 * self.lanes.all)
                    self.emit(Kind.SUMS, x.map, x.size, Place(sums), mean)
                moved = (None, None) if self.momentum is None else (mean, variance)
                momentum = op.momentum if self.momentum is None or self.momentum < 0 else self.momentum
                positions = y.size.height * y.size.width
                self.emit(
                    Kind.STATISTICS, y.size.channels, positions, Place(sums), mean, *own, *moved, op.epsilon,
                    float(momentum),
                )  # fmt: skip
        other = self.maps[node.other].map if node.other is not None else NO_MAP
        scale = [self.state.value(each.name) if each is not None else None for each in (op.weight, op.bias)]
        self.emit(Kind.NORMALISE, x.map, y.map, other, y.size, *y.halo, *own, *scale, clip)


def bounds(of: Bounds) -> Clip:
    """The bounds of a node's output as a step has them."""
    return Clip(float(of.low), float(of.high)) if of else FREE


def further(map: Map, channels: int) -> Map:
    """The map from another channel on."""
    assert map.at is not None
    return map._replace(at=map.at + channels * map.channel)


def inside(op: Pad, y: Held) -> Map:
    """The part of a padded map that is not padding."""
    (top, _), (left, _) = op.padding[2:]
    return further(y.shifted(top, left), op.padding[1][0])


def reshaped(x: Held, y: Held) -> tuple[Map, Map, Size]:
    """Both ends of a copy to or from a vector, and the size of the map that is one of them."""
    one, other = (x, y) if y.size.height * y.size.width == 1 else (y, x)
    step = other.map.channel
    size = one.size
    row = Map(other.map.at, size.height * size.width * step, size.width * step, step, other.map.group)
    return (one.map, row, size) if one is x else (row, one.map, size)


def pooled(op: MaxPool | AvgPool | GlobalMean, x: Size) -> tuple[int, ...]:
    """The fields of a pool after its sizes."""
    if isinstance(op, GlobalMean):
        return (x.height, x.width, x.height, x.width, 1, 1, 0, 0, 0)
    top, left = (op.padding[0][0], op.padding[1][0]) if isinstance(op, MaxPool) else (0, 0)
    return (x.height, x.width, *op.kernel, *op.stride, top, left, int(isinstance(op, MaxPool)))
