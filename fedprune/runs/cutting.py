"""What a net takes that is cut to some of its channels: its multiply-adds, and the C sources that it would become."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from fedprune import budgets, tasks, training
from fedprune.counter_rng import generator
from fedprune.data import Schema
from fedprune.experiment import Experiment
from fedprune.graph import Graph, UnsupportedOperation, width
from fedprune.methods.layers import Channels, Cost
from fedprune.models import draws
from fedprune.types import Masks

if TYPE_CHECKING:
    from torch import nn

_SEEN = 32  # examples behind the ranges of a file that is only measured


def cost_of(experiment: Experiment, schema: Schema, model: nn.Module, channels: Channels) -> Cost:
    """What a method is told of its budgets; it says ValueError, in one line, of a net that it cannot count.

    Which channels of a group are kept costs nothing, only how many: each such net is built once.
    """

    @functools.cache
    def taken(target: str, counts: tuple[int, ...]) -> int:
        groups, shapes = channels()
        first = {group.name: np.arange(group.size) < n for group, n in zip(groups, counts, strict=True)}
        try:
            small = cut(model, width.width_masks(groups, shapes, first)).eval()
            make_unalike(small)
            graph = _graph(experiment, schema, small)
            return budgets.macs(graph) if target == "macs" else _c_sources(experiment, schema, graph)[target]
        except (UnsupportedOperation, ValueError) as error:
            raise ValueError(f"{target} of {experiment.model} cannot be counted: {error}") from error

    def cost(target: str, kept: Masks) -> int:
        return taken(target, tuple(int(np.count_nonzero(kept[group.name])) for group in channels()[0]))

    return cost


def cut(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy of the model cut to what masks of whole channels keep."""
    state = width.narrow(training.state_of(model), masks)
    small = width.fit(model, {name: value.shape for name, value in state.items()})
    training.load_state(small, state)
    return small


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


def _graph(experiment: Experiment, schema: Schema, model: nn.Module) -> Graph:
    from fedprune.graph import inference, trace

    with draws.seeded(experiment.seed):
        return inference(trace(model, tasks.example(tasks.named(experiment.task), schema.input_shape)))


def _c_sources(experiment: Experiment, schema: Schema, graph: Graph) -> dict[str, int]:
    from fedprune.export import c99

    made = c99.generate(int8_file(experiment, schema, graph))
    return {"flash_bytes": made.flash_bytes_predicted, "sram_bytes": made.arena_bytes}
