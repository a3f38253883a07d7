"""A method of an experiment, with the layers that it prunes: the same on the server and on every device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedprune.experiment import Experiment
from fedprune.graph.coupling import coupled_channels, layer_shapes, prunable
from fedprune.methods import build, size_parameter
from fedprune.methods.layers import Channels, Shapes
from fedprune.models import draws
from fedprune.types import Method

if TYPE_CHECKING:
    from torch import nn


class Prunable(NamedTuple):
    """What of a model may be pruned."""

    layers: Shapes
    """In forward order -> shape of their weight."""
    channels: Channels


def prunable_of(experiment: Experiment, model: nn.Module, input_shape: tuple[int, ...]) -> Prunable:
    """What the experiment prunes of its model."""
    import torch

    with draws.seeded(experiment.seed):
        shapes = layer_shapes(model, torch.zeros(2, *input_shape))
    names = prunable(shapes, first=experiment.prune_first, last=experiment.prune_last)
    modules = dict(model.named_modules())
    grouped = {name for name in names if getattr(modules[name.removesuffix(".weight")], "groups", 1) > 1}
    layers = {name: shapes[name] for name in names if experiment.prune_depthwise or name not in grouped}

    @functools.cache
    def channels() -> tuple[object, Mapping[str, tuple[int, ...]]]:
        groups = coupled_channels(model, torch.zeros(2, *input_shape))
        return groups, {name: tuple(value.shape) for name, value in model.state_dict().items()}

    return Prunable(layers, channels)  # type: ignore[arg-type]


def at_size(experiment: Experiment, what: Prunable) -> Callable[[float], Method]:
    """From a size, a density or a width as the method has it, to the experiment's method; 0 is the experiment's own.

    Raises MethodError.
    """
    table = experiment.method

    def method(size: float) -> Method:
        sized = size_parameter(table["name"]) if size else None
        given = {**table, sized[0]: size} if sized else table
        return build(given, what.layers, experiment.seed, channels=what.channels)

    return method
