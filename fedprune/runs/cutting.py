"""What a net takes that is cut to some of its channels: its multiply-adds, and the C sources that it would become."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune import budgets, tasks
from fedprune.counter_rng import generator
from fedprune.data import Schema
from fedprune.experiment import Experiment
from fedprune.graph import Conv2d, Graph, Linear, UnsupportedOperation, inference, trace
from fedprune.graph.coupling import Group
from fedprune.graph.cutting import cut
from fedprune.graph.labels import FIXED, Units
from fedprune.graph.units import units
from fedprune.methods.layers import Channels, Cost
from fedprune.models import draws
from fedprune.types import Masks, Tensor

if TYPE_CHECKING:
    from torch import nn

_SEEN = 4  # examples behind the ranges of a file that is only measured


def cost_of(experiment: Experiment, schema: Schema, model: nn.Module, channels: Channels) -> Cost:
    """What a method is told of its budgets; it says ValueError, in one line, of a net that it cannot count.

    The model is traced once, and its graph is cut. Which channels of a group are kept costs nothing, only how many.
    """

    @functools.cache
    def whole() -> tuple[Units, Mapping[str, Tensor]]:
        net = copy.deepcopy(model).eval()
        make_unalike(net)
        with draws.seeded(experiment.seed):
            graph = inference(trace(net, tasks.example(tasks.named(experiment.task), schema.input_shape)))
        told = units(graph)
        return told, {group.name: _labels(told, group) for group in channels()[0]}

    @functools.cache
    def taken(target: str, counts: tuple[tuple[str, int], ...]) -> int:
        try:
            told, labels = whole()
            removed = {int(label) for name, count in counts for label in labels[name][count:].flat}
            graph = cut(told.graph, told, removed) if removed else told.graph
            return budgets.macs(graph) if target == "macs" else _c_sources(experiment, schema, graph)[target]
        except (UnsupportedOperation, ValueError) as error:
            raise ValueError(f"{target} of {experiment.model} cannot be counted: {error}") from error

    def cost(target: str, kept: Masks) -> int:
        return taken(target, tuple((name, int(np.count_nonzero(each))) for name, each in sorted(kept.items())))

    return cost


def _labels(told: Units, group: Group) -> Tensor:
    """(channels, k): which units of the graph a group's channels are; ValueError where the graph cannot lose one."""
    rows = {member.name: member for member in group.members if member.produces and len(member.shape) > 1}
    for op in told.graph.operations:
        if isinstance(op, Conv2d | Linear) and op.weight.name in rows:
            axis = 1 if isinstance(op, Conv2d) else len(told.graph.shapes[op.output]) - 1
            found: Tensor = told.of(op.output, axis)[rows[op.weight.name].positions]
            if (found != FIXED).all():
                return found
    raise ValueError(f"its graph has no channels of {group.name} that could be cut")


def make_unalike(model: nn.Module) -> None:
    """Add noise to a model's weights, in place: equal values, such as biases of 0, would be stored once."""
    import torch

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=rng) / 16)


def int8_file(experiment: Experiment, schema: Schema, graph: Graph) -> bytes:
    """A graph's .tflite with ranges of noise: these change what its bytes say, not how many there are."""
    from fedprune.export import litert

    seen = generator(0, "inputs of a cost").standard_normal((_SEEN, *schema.input_shape)).astype(np.float32)
    seen = np.zeros_like(seen) if tasks.named(experiment.task).tokens else seen
    return litert.write_int8(graph, litert.calibrate(graph, seen))


def _c_sources(experiment: Experiment, schema: Schema, graph: Graph) -> dict[str, int]:
    from fedprune.export import c99

    made = c99.generate(int8_file(experiment, schema, graph))
    return {"flash_bytes": made.flash_bytes_predicted, "sram_bytes": made.arena_bytes}
