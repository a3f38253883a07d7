"""Lottery tickets: train, prune, put the survivors back to earlier weights, and train them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedprune.methods.layers import Shapes, dense, density_in_range, masked
from fedprune.pruning import criteria
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import exponential
from fedprune.types import Allocation, Found, Method, Model, Params, Pruner

Rule = Callable[[Params, int], Pruner]
"""(every parameter and buffer, level) -> what prunes at that level, which is its step."""

FIRST = "first/"
"""Prefix, in memory, of the weights that survivors go back to."""


def rewound(layers: Shapes, rule: Rule, levels: int, period: int, to: int = 0) -> Method:
    """Iterative pruning of what is trained: after round to + i · period, level i, prune and set all else to θ_to.

    From the last of ``levels`` on the ticket trains. θ_to, statistics of batch norms among it, are the averaged weights
    after round ``to``, 0 the pretrained ones. ValueError for a number that is out of range.
    """
    for key, value, least in (("levels", levels, 1), ("period", period, 1), ("rewind", to, 0)):
        if value < least:
            raise ValueError(f"{key} {value} is below {least}")

    def start(params: Params) -> Model:
        return dense(layers)(params)._replace(memory={} if to else named(FIRST, params))

    def act(model: Model, found: Found, round: int) -> Model:
        level, late = divmod(round - to, period)
        if to and round == to:
            return model._replace(memory=named(FIRST, model.params))
        if late or not 1 <= level <= levels:
            return model
        weights = {name: model.params[name] for name in layers}
        kept = rule(model.params, level).update(model.masks, {"weight": weights}, level)
        return masked(model._replace(params=unnamed(FIRST, model.memory)), kept)

    return Method(start, act=act)


def falling(density: float, levels: int, share: Callable[[Params, int], Allocation]) -> Rule:
    """The least |θ| go; density falls by the same factor a level, to ``density`` at the last of ``levels``.

    ``share`` says, of every parameter and buffer at a level, how that level's density is shared out among the layers.
    """
    target = exponential(1.0, density_in_range(density), end=levels)
    return lambda params, level: prune(criteria.magnitude, target, allocate=share(params, level))


def named(prefix: str, params: Params) -> Params:
    """Tensors under names for a method's memory."""
    return {prefix + name: value for name, value in params.items()}


def unnamed(prefix: str, memory: Params) -> Params:
    """The tensors of memory whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in memory.items() if name.startswith(prefix)}


def output_layer(params: Mapping[str, object]) -> str:
    """The model's last matrix: by the usual order of definition, that of its logits."""
    return [name for name, value in params.items() if getattr(value, "ndim", 0) > 1][-1]
