"""A method of an experiment, with the layers that it prunes: the same on the server and on every device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from fedprune import tasks
from fedprune.experiment import Experiment
from fedprune.graph.inner import all_groups
from fedprune.graph.layers import dense_ends, layers
from fedprune.graph.shared import unique_state
from fedprune.methods import build, size_parameter
from fedprune.methods.layers import Channels, Cost, Shapes
from fedprune.models import as_is, draws
from fedprune.types import Local, Method, Params

if TYPE_CHECKING:
    from torch import nn


class Prunable(NamedTuple):
    """What of a model may be pruned, and what is left alone."""

    layers: Shapes
    """In forward order -> shape of their weight."""
    channels: Channels
    every: Shapes = MappingProxyType({})
    """All that could be pruned, frozen and depthwise ones too."""
    dense: tuple[str, ...] = ()
    """Of the first and the last layer those that stay dense."""
    first: str = ""
    """The first layer, and the last; empty for one that is never pruned."""
    last: str = ""
    frozen: tuple[str, ...] = ()
    """Parameters and statistics that no training moves: no device sends them back."""
    unread: tuple[str, ...] = ()
    """Trained parameters that no output depends on."""


def prunable_of(experiment: Experiment, model: nn.Module, input_shape: tuple[int, ...]) -> Prunable:
    """What the experiment prunes of its model."""
    two = tasks.example(tasks.named(experiment.task), input_shape, 2)
    with draws.seeded(experiment.seed):
        read = layers(model, two)
    frozen = as_is.frozen(model)
    modules = dict(model.named_modules())
    grouped = {name for name in read.shapes if getattr(modules[name.rpartition(".")[0]], "groups", 1) > 1}
    left = {*frozen, *(() if experiment.prune_depthwise else grouped)}
    sizes = {name: prod(shape) for name, shape in read.shapes.items() if name not in left}
    dense = dense_ends(read, sizes, first=experiment.prune_first, last=experiment.prune_last)

    @functools.cache
    def channels() -> tuple[object, Mapping[str, tuple[int, ...]]]:
        groups = all_groups(model, two)
        free = [group for group in groups if not any(m.produces and m.name in frozen for m in group.members)]
        return free, {name: tuple(value.shape) for name, value in unique_state(model).items()}

    return Prunable(
        {name: read.shapes[name] for name in sizes if name not in dense},
        channels,  # type: ignore[arg-type]
        read.shapes,
        dense,
        read.first if read.first in sizes else "",
        read.last if read.last in sizes else "",
        frozen,
        tuple(name for name in read.unread if name not in frozen),
    )


def at_size(experiment: Experiment, what: Prunable, cost: Cost | None = None) -> Callable[[float], Method]:
    """From a size, a density or a width as the method has it, to the experiment's method; 0 is the experiment's own.

    What is frozen devices do not send back, so that it stays as it is whatever happens to their answers. Raises
    MethodError.
    """
    table = experiment.method

    def method(size: float) -> Method:
        sized = size_parameter(table["name"]) if size else None
        given = {**table, sized[0]: size} if sized else table
        built = build(given, what.layers, experiment.seed, channels=what.channels, cost=cost)
        return built._replace(local=_without(what.frozen, built.local)) if what.frozen else built

    return method


def _without(frozen: Collection[str], local: Local) -> Local:
    def sends(params: Params, memory: Params) -> Params:
        sent = local.sends(params, memory) if local.sends is not None else {**params, **memory}
        return {name: value for name, value in sent.items() if name not in frozen}

    return local._replace(sends=sends)
