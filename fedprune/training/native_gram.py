"""Gram matrices of what layers read, without torch: products of what each cell of a kernel reads with all cells'."""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import NamedTuple

import numpy as np

from fedprune.graph import Conv2d, Linear
from fedprune.native.arena import Buffer
from fedprune.native.machine import Machine
from fedprune.native.maps import Held, flat, strided
from fedprune.native.program import Program
from fedprune.native.state import State
from fedprune.native.steps import Kind, Place, Size, Step, step
from fedprune.native.weights import Entries, Shared, forwards, window
from fedprune.training.batches import Batches
from fedprune.training.native import Model, each_tensor, layers_of
from fedprune.types import Tensor


class _Cell(NamedTuple):
    """What comes of a step: the products of what one cell of a layer's kernel reads with all that the layer reads."""

    name: str
    step: int
    of: slice
    """Its rows of the Gram matrix, a channel each."""
    positions: int
    into: Buffer


def gram(model: Model, batches: Batches, names: Collection[str], examples: int) -> dict[str, tuple[Tensor, int]]:
    """As `fedprune.training.gram.gram`; batches are of at most so many ``examples``, whose sums are float32."""
    plan, held, whole, made = each_tensor(model, examples)
    layers = layers_of(plan.graph)
    for name in names:
        if name not in layers or window(layers[name]).groups != 1:
            raise ValueError(f"{name!r:.80} is no weight of a linear layer or of a convolution of one group")
    steps: list[Step] = []
    cells: list[_Cell] = []
    done = 0
    for tensor, (until, map) in made.items():
        steps += whole.steps[done:until]
        done = until
        for name in (name for name in names if layers[name].inputs[0] == tensor):
            cells += _cells(layers[name], map, plan.sizes[layers[name].output], held, steps)
    own = Program(steps, whole.ends)
    machine = Machine(plan, held, [own])
    machine.load(model.params)
    sides = {name: prod(held.entries(name).shape[1:]) for name in names}
    return _summed(machine, own, cells, batches, sides)


def _cells(op: Conv2d | Linear, x: Held, y: Size, held: State, steps: list[Step]) -> list[_Cell]:
    """Those of a layer, whose steps are added."""
    own, of = window(op), held.entries(op.weight.name)
    reads = forwards(own, Entries(of.shape, None, 0), x.map)
    assert isinstance(reads, Shared)
    fan, taps = len(reads.offsets), own.rows * own.columns
    given, offsets, into = strided(x.map, own.stride), held.constant(reads.offsets), Buffer(x.size.channels * fan)
    found = []
    for tap in range(taps):
        row, column = divmod(tap, own.columns)
        there = x.shifted(row * own.dilation[0] - own.before[0], column * own.dilation[1] - own.before[1])
        cell = strided(there, own.stride)._replace(channel=there.channel)
        size = flat(y._replace(channels=x.size.channels), cell, given)
        found.append(_Cell(op.weight.name, len(steps), slice(tap, None, taps), y.height * y.width, into))
        fields = cell, given, size, 1, 0, fan, offsets, Place(into), None, size.height
        steps.append(step(Kind.DENSE_WEIGHT_GRADIENT, *fields))
    return found


def _summed(
    machine: Machine, own: Program, cells: list[_Cell], batches: Batches, sides: dict[str, int]
) -> dict[str, tuple[Tensor, int]]:
    sums = {name: np.zeros((side, side)) for name, side in sides.items()}
    rows = dict.fromkeys(sides, 0)
    for inputs, _ in batches:
        machine.feed(own, inputs, np.zeros(len(inputs), np.int32), 0.0)
        done = 0
        for cell in cells:
            machine.run(own, len(inputs), slice(done, cell.step))
            products = machine.part(cell.into)
            products[:] = 0
            done = cell.step + 1
            machine.run(own, len(inputs), slice(cell.step, done))
            sums[cell.name][cell.of] += products.reshape(-1, sides[cell.name])
            if cell.of.start == 0:
                rows[cell.name] += cell.positions * len(inputs)
    return {name: (sums[name], rows[name]) for name in sides}
