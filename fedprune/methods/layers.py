"""What methods are made of: the layers that they prune, how they start, and rules that act on a model's masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedprune.counter_rng import uniforms
from fedprune.graph.coupling import Group
from fedprune.graph.width import width_masks
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import erk, ranked
from fedprune.pruning.parts import statistics
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant, cubic
from fedprune.types import Ask, Evidence, Found, Masks, Method, Model, Params, Part, Pruner, Schedule, Tensor

Shapes = Mapping[str, tuple[int, ...]]
"""Prunable layers in forward order -> shape of their weight."""

Channels = Callable[[], tuple[Sequence[Group], Shapes]]
"""() -> (groups of coupled channels, full shape of every parameter and buffer); it traces the model when called."""

Cost = Callable[[str, Masks], int]
"""(``macs``, ``flash_bytes`` or ``sram_bytes``; group -> kept channels) -> what the net that is cut to them takes."""

GRAD = "grad"
"""What ``adjusted`` calls its ask for gradients."""


def density_in_range(density: float) -> float:
    """``density`` itself; ValueError where it is outside (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(f"density {density} is outside (0, 1]")
    return density


def gradual(density: float, initial: float, begin: int, stop: int) -> Schedule:
    """GMP's cubic from ``initial`` down to ``density``; ValueError where it is none (Zhu and Gupta, 2017, eq. 1)."""
    if not density_in_range(density) <= initial <= 1:
        raise ValueError(f"initial {initial} is outside [density, 1]")
    if not 0 <= begin <= stop:
        raise ValueError(f"begin {begin} is outside 0 to stop, {stop}")
    return cubic(initial, density, begin=begin, end=stop)


def fractions_in_range(**values: float) -> None:
    """ValueError naming the first that is outside [0, 1]."""
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{key} {value} is outside [0, 1]")


def above_zero(**values: float) -> None:
    """ValueError naming the first that is not."""
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{key} {value} is not above 0")


def from_to(key: str, value: float, least: float, most: float | None = None, of: str = "") -> None:
    """ValueError where ``value`` is not from ``least`` to ``most``, which is ``of`` what; None is no limit."""
    if value < least:
        raise ValueError(f"{key} {value} is below {least}")
    if most is not None and value > most:
        raise ValueError(f"{key} {value} is above {most}{of and f', {of}'}")


def dense(layers: Shapes) -> Callable[[Params], Model]:
    """A start that keeps every weight of the prunable layers, for now."""
    return lambda params: Model(params, masks.ones_like(layers))


def narrowed(channels: Channels, units: Callable[[Sequence[Group]], Mapping[str, Tensor]]) -> Callable[[Params], Model]:
    """A start whose devices hold the channels of ``units(groups)`` alone; the server keeps the weights beyond them."""
    groups, shapes = channels()
    which = units(groups)
    return lambda params: held(Model(params), groups, shapes, which)


def held(model: Model, groups: Sequence[Group], shapes: Shapes, units: Mapping[str, Tensor]) -> Model:
    """``model``, of which devices hold these channels of each group alone, (channels,) booleans."""
    return model._replace(parts={"narrow": Part(statistics(model.params), width_masks(groups, shapes, units))})


def pruned_once(layers: Shapes, rule: Pruner, seed: int = 0) -> Method:
    """A method whose masks ``rule`` draws from the pretrained weights, and which keeps them."""

    def start(params: Params) -> Model:
        whole = masks.ones_like(layers)
        return masked(Model(params), rule.update(whole, evidence(Model(params, whole), {}, rule, seed), 0))

    return Method(start)


def measured_once(layers: Shapes, rule: Pruner, ask: Ask) -> Method:
    """A method whose masks ``rule`` draws before training, from what ``ask`` has measured as a gradient, and keeps.

    Where nobody could say anything the model stays dense.
    """

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {GRAD: ask._replace(masks=model.masks)}

    def act(model: Model, found: Found, round: int) -> Model:
        if round or not found.get(GRAD):
            return model
        return masked(model, rule.update(model.masks, evidence(model, found, rule), 0))

    return Method(dense(layers), asks=asks, act=act)


def scattered(layers: Shapes, density: float, seed: int) -> Callable[[Params], Model]:
    """A start with random masks, of Erdős–Rényi-kernel densities; where ``density`` is 1 it is dense."""
    return pruned_once(layers, prune(criteria.random, constant(density), allocate=erk(layers)), seed).start


def largest(density: float) -> Pruner:
    """Keep the largest |θ| of all layers together."""
    return prune(criteria.magnitude, constant(density), allocate=ranked())


def masked(model: Model, new: Masks) -> Model:
    """The model under these masks: pruned positions are 0, and so is one that was just revived."""
    return model._replace(params=masks.apply(model.params, new), masks=new)


def adjusted(rule: Pruner, seed: int = 0) -> tuple[Callable[..., Mapping[str, Ask]], Callable[..., Model]]:
    """``asks`` and ``act`` of a method whose masks ``rule`` changes after each round.

    Where the rule reads gradients, devices send the largest of pruned weights, in rounds in which it grows; where
    nobody could send any, masks stay as they are.
    """

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        counts = rule.grows(model.masks, round) if GRAD in rule.needs and round else {}
        return {GRAD: Ask("top_gradients", counts)} if counts else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not round or (asks(model, round, {}) and not found.get(GRAD)):
            return model
        return masked(model, rule.update(model.masks, evidence(model, found, rule, seed + round), round))

    return asks, act


def evidence(model: Model, found: Found, rule: Pruner, seed: int = 0) -> Evidence:
    """What a rule reads: weights; noise by seed; and merged gradients, 0 where nobody sent one."""
    read: dict[str, Params] = {"weight": {name: model.params[name] for name in model.masks}}
    shapes = {name: mask.shape for name, mask in model.masks.items()}
    if GRAD in rule.needs:
        read[GRAD] = {**{name: np.zeros(shape) for name, shape in shapes.items()}, **found.get(GRAD, {})}
    if "noise" in rule.needs:
        read["noise"] = {name: uniforms(seed, name, shape) for name, shape in shapes.items()}
    return read
