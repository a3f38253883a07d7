"""What a program holds from step to step: weights, their gradients and velocity, statistics, and constants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedprune.graph import BatchNorm, Conv2d, Linear
from fedprune.native.arena import Buffer, room
from fedprune.native.nodes import Node
from fedprune.native.steps import Place
from fedprune.native.weights import Entries, entries
from fedprune.types import Masks, Tensor


@dataclass(frozen=True, eq=False)
class Kept:
    """Where the values of one parameter or statistic are, from the start of their buffer."""

    shift: int
    values: int
    entries: Entries | None = None
    """Of a layer's weight."""

    @property
    def at(self) -> Tensor | None:
        """Which values of the whole tensor are held; None where all are."""
        return self.entries.at if self.entries is not None else None


@dataclass(eq=False)
class State:
    """All that is held, in few buffers; gradients and velocity lie as trained values do."""

    trained: Mapping[str, Kept]
    still: Mapping[str, Kept]
    """Parameters that are not trained, and statistics."""
    values: Buffer
    gradients: Buffer
    velocity: Buffer
    rest: Buffer
    constants: list[tuple[Buffer, Tensor]] = field(default_factory=list)
    """What is to be copied into the arena, once."""
    _known: dict[bytes, Buffer] = field(default_factory=dict)

    def value(self, name: str) -> Place:
        """Where a parameter or statistic is."""
        kept = self.trained.get(name)
        return Place(self.values, kept.shift) if kept is not None else Place(self.rest, self.still[name].shift)

    def kept(self, name: str) -> Kept:
        """How it is held."""
        return self.trained.get(name) or self.still[name]

    def gradient(self, name: str) -> Place | None:
        """Where its gradient goes; None where it is not trained."""
        return Place(self.gradients, self.trained[name].shift) if name in self.trained else None

    def entries(self, name: str) -> Entries:
        """The entries of a layer's weight."""
        found = self.kept(name).entries
        assert found is not None
        return found

    def constant(self, values: Tensor) -> Place:
        """Where these int32 will be."""
        key = hashlib.blake2b(values.tobytes()).digest()  # programs of one model read much the same
        if key not in self._known:
            self._known[key] = Buffer(max(1, values.size))
            self.constants.append((self._known[key], values))
        return Place(self._known[key])

    @property
    def buffers(self) -> list[Buffer]:
        """Those that live as long as the program."""
        return [self.values, self.gradients, self.velocity, self.rest, *self._known.values()]


def state(nodes: list[Node], masks: Masks, frozen: frozenset[str] = frozenset(), *, train: bool = True) -> State:
    """Room for what the nodes hold; ``frozen`` parameters, or all without ``train``, have no gradient."""
    trained: dict[str, Kept] = {}
    still: dict[str, Kept] = {}
    ends = {True: 0, False: 0}

    def keep(name: str, values: int, moves: bool, of: Entries | None = None) -> None:
        which = moves and train and name not in frozen
        (trained if which else still)[name] = Kept(ends[which], values, of)
        ends[which] += room(values)

    for node in nodes:
        op = node.op
        if isinstance(op, Conv2d | Linear):
            of = entries(op, masks.get(op.weight.name))
            keep(op.weight.name, of.values, True, of)
        if isinstance(op, BatchNorm):
            keep(op.mean.name, op.mean.value.size, False)
            keep(op.variance.name, op.variance.value.size, False)
            if op.weight is not None:
                keep(op.weight.name, op.weight.value.size, True)
        if isinstance(op, Conv2d | Linear | BatchNorm) and op.bias is not None:
            keep(op.bias.name, op.bias.value.size, True)
    sizes = ends[True], ends[False]
    values, gradients, velocity = (Buffer(max(1, sizes[0])) for _ in range(3))
    return State(trained, still, values, gradients, velocity, Buffer(max(1, sizes[1])))
