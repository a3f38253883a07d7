"""Moments of what layers read, without torch: each tensor's, while its buffer is its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from fedprune.native.machine import Machine
from fedprune.native.maps import Held
from fedprune.native.steps import Size
from fedprune.native.weights import Window, window
from fedprune.training.batches import Batches
from fedprune.training.input_moments import more, none_of
from fedprune.training.native import Model, each_tensor, layers_of
from fedprune.types import Moments, Tensor


def input_moments(model: Model, batches: Batches, names: Collection[str], examples: int) -> dict[str, Moments]:
    """As `fedprune.training.input_moments.input_moments`; batches are of at most so many ``examples``."""
    plan, held, own, made = each_tensor(model, examples)
    every = layers_of(plan.graph)
    layers = {name: every[name] for name in names if name in every}
    machine = Machine(plan, held, [own])
    machine.load(model.params)
    windows = {name: window(op) for name, op in layers.items()}
    found = {name: none_of(model.params[name][0].size) for name in names} | {
        name: none_of(made[layers[name].inputs[0]][1].size.channels * of.rows * of.columns)
        for name, of in windows.items()
    }
    for inputs, _ in batches:
        machine.feed(own, inputs, np.zeros(len(inputs), np.int32), 0.0)
        done = 0
        for tensor, (until, map) in made.items():
            machine.run(own, len(inputs), slice(done, until))
            done = until
            for name in (name for name, op in layers.items() if op.inputs[0] == tensor):
                for some in _columns(machine, map, windows[name], plan.sizes[layers[name].output], len(inputs)):
                    found[name] = more(found[name], some)
    return found


def _columns(machine: Machine, map: Held, of: Window, out: Size, examples: int) -> Iterator[Tensor]:
    """What a layer reads of a map, (columns, rows) float64, by groups of examples."""
    (channels, height, width), halo = map.size, map.halo
    shape = map.groups, channels, height + 2 * halo[0], width + 2 * halo[1], map.lanes
    whole = machine.part(map.buffer).reshape(shape)
    for group in range(-(-examples // map.lanes)):
        values = whole[group, ..., : examples - group * map.lanes].astype(np.float64)
        cells = []
        for row, column in np.ndindex(of.rows, of.columns):
            top, left = halo[0] + row * of.dilation[0] - of.before[0], halo[1] + column * of.dilation[1] - of.before[1]
            bottom, right = top + of.stride[0] * (out.height - 1) + 1, left + of.stride[1] * (out.width - 1) + 1
            cells.append(values[:, top : bottom : of.stride[0], left : right : of.stride[1]].reshape(channels, -1))
        yield np.stack(cells, axis=1).reshape(channels * len(cells), -1)
