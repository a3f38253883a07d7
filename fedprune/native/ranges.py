"""The range of every tensor of a graph over batches, each read while its buffer is its own: O(arena) of memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedprune.graph import Conv2d, Graph, Linear, parameters
from fedprune.native import program
from fedprune.native.machine import Machine
from fedprune.native.maps import Held
from fedprune.native.state import state
from fedprune.types import FloatTensor, Tensor


def ranges(graph: Graph, batches: Iterable[Tensor], examples: int) -> FloatTensor:
    """As `fedprune.training.evidence.ranges`, of a covered graph; batches are of at most so many ``examples``."""
    plan = program.plan(graph, examples, apart=True)
    layers = [op.weight for op in graph.operations if isinstance(op, Conv2d | Linear)]
    held = state(list(plan.nodes), {each.name: each.value != 0 for each in layers}, train=False)
    own, made = program.one_by_one(plan, held)
    machine = Machine(plan, held, [own])
    machine.load({each.name: each.value for op in graph.operations for each in parameters(op)})
    found = {name: np.zeros(2, np.float32) for name in graph.shapes}
    for inputs in batches:
        machine.feed(own, inputs, np.zeros(len(inputs), np.int32), 0.0)
        done = 0
        for name, (steps, map) in made.items():
            machine.run(own, len(inputs), slice(done, steps))
            done = steps
            _widen(found[name], machine, map, len(inputs))
    return np.stack([found[name] for name in graph.shapes])


def _widen(ends: FloatTensor, machine: Machine, map: Held, examples: int) -> None:
    (channels, height, width), (rows, columns) = map.size, map.halo
    shape = map.groups, channels, height + 2 * rows, width + 2 * columns, map.lanes
    whole = machine.part(map.buffer).reshape(shape)[:, :, rows : rows + height, columns : columns + width]
    for group in range(-(-examples // map.lanes)):
        values = whole[group, ..., : examples - group * map.lanes]
        ends[0], ends[1] = np.minimum(ends[0], values.min()), np.maximum(ends[1], values.max())
