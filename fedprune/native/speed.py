"""A step of the trainer to time a machine by, where there is no torch to do it with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedprune.graph import Conv2d, Graph, Parameter
from fedprune.native import program
from fedprune.native.machine import Machine
from fedprune.native.state import state

_CHANNELS, _SIDE, _EXAMPLES = 32, 16, 8


def layers() -> tuple[Callable[[], None], int]:
    """(a step, forwards and backwards, of two dense layers, its multiply-adds). The kernels must be installed."""
    side = (1, _CHANNELS, _SIDE, _SIDE)
    rng = np.random.default_rng(0)

    def layer(before: str, after: str) -> Conv2d:
        weight = rng.normal(scale=0.1, size=(_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        return Conv2d((before,), after, Parameter(after, weight), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)

    convolutions = layer("x", "first"), layer("first", "second")
    graph = Graph("x", ("second",), convolutions, dict.fromkeys(("x", "first", "second"), side))
    plan = program.plan(graph, _EXAMPLES)
    held = state(list(plan.nodes), {})
    values = _CHANNELS * _SIDE * _SIDE
    own = program.training(plan, held, program.squared_error, values)
    machine = Machine(plan, held, [own])
    machine.load({op.weight.name: op.weight.value for op in convolutions})
    inputs = rng.normal(size=(_EXAMPLES, *side[1:])).astype(np.float32)
    machine.feed(own, inputs, np.zeros((_EXAMPLES, values), np.float32), 1.0)
    # each forwards and to its weights, the second to its inputs as well
    macs = 5 * _EXAMPLES * _SIDE * _SIDE * convolutions[0].weight.value.size
    return lambda: machine.run(own, _EXAMPLES), macs
