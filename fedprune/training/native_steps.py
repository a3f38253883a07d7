"""Steps without torch: of the model that a device trains, or of a smaller one nested in it; and how they move it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedprune.native.arena import Buffer
from fedprune.native.machine import Machine
from fedprune.native.nodes import Node
from fedprune.native.program import Program
from fedprune.native.state import State, state
from fedprune.pruning.masks import intersect
from fedprune.training.optimisers import Steps
from fedprune.types import Masks, Sgd, Tensor


class Inner(NamedTuple):
    """A smaller model: the trained one's weights under further masks, statistics of its own."""

    masks: Masks
    """Of any parameters, in the model's shapes; a parameter without one is the whole model's."""
    buffers: dict[str, Tensor]
    """Running statistics and counts by name, updated in place."""


class Form(NamedTuple):
    """The whole model, or one nested in it, as it is trained."""

    held: State
    programs: tuple[Program, Program]
    """Of any batch, and of a single example."""
    of: Tensor | slice = slice(None)
    """Which of the whole model's values it has."""
    at: Tensor | slice = slice(None)
    """Where it has them."""

    def program(self, examples: int) -> Program:
        """The one of so many examples."""
        return self.programs[examples == 1]


def forms(
    nodes: list[Node], masks: Masks, inner: Sequence[Inner], programs: Callable[[State], tuple[Program, Program]]
) -> list[Form]:
    """The whole model's, then that of each smaller one, of which weights and gradients alone have room besides."""
    whole = state(nodes, masks)
    found = [Form(whole, programs(whole))]
    for each in inner:
        under = intersect(masks, each.masks)
        held = replace(state(nodes, under), velocity=Buffer(1))
        found.append(Form(held, programs(held), _kept(whole, under), _kept(held, under)))
    return found


def _kept(held: State, masks: Masks) -> Tensor:
    """Which of the values that are held are not pruned; of two states under the same masks, as many in one order."""
    found = np.zeros(held.values.elements, np.bool_)
    for name, kept in held.trained.items():
        mask = masks[name].reshape(-1) if name in masks else np.ones(kept.values, np.bool_)
        found[kept.shift : kept.shift + kept.values] = mask if kept.at is None else mask[kept.at]
    return found


def begin(machine: Machine, form: Form) -> None:
    """Give it the weights that the whole model has now, and gradients of 0."""
    if form.held is not machine.state:
        machine.part(form.held.values)[form.at] = machine.part(machine.state.values)[form.of]
    machine.part(form.held.gradients)[:] = 0


def end(machine: Machine, form: Form) -> None:
    """Give its gradients to the whole model, of which all others are 0."""
    if form.held is not machine.state:
        gradients = machine.part(machine.state.gradients)
        gradients[:] = 0
        gradients[form.of] = machine.part(form.held.gradients)[form.at]


def load(machine: Machine, form: Form, of: Inner) -> None:
    """Take a smaller model's statistics. KeyError where it has not all of them."""
    for name in form.held.still:
        machine.value(name, form.held)[:] = of.buffers[name]


def store(machine: Machine, form: Form, of: Inner) -> None:
    """Put a smaller model's statistics where they came from."""
    for name in form.held.still:
        of.buffers[name][:] = machine.value(name, form.held)


def moved(machine: Machine, masks: Masks, sgd: Sgd, steps: Steps) -> Callable[[], None]:
    """What moves a model by the gradients that are there: masked SGD, with what the experiment asks of each step."""
    held = machine.state
    values, gradients, velocity = (machine.part(each) for each in (held.values, held.gradients, held.velocity))
    start = values.copy() if steps.proximal else values
    decayed = [slice(k.shift, k.shift + k.values) for name, k in held.trained.items() if len(machine.shapes[name]) > 1]
    pruned = [
        (slice(k.shift, k.shift + k.values), masks[name].reshape(-1))
        for name, k in held.trained.items()
        if name in masks and k.at is None
    ]

    def move() -> None:
        for part, mask in pruned:
            gradients[part] *= mask
        if steps.proximal:
            gradients[:] += np.float32(steps.proximal) * (values - start)
        if steps.clip and (norm := float(np.sqrt(np.vdot(gradients, gradients)))) > steps.clip:
            gradients[:] *= np.float32(steps.clip / norm)
        if sgd.weight_decay:
            for part in decayed:
                gradients[part] += np.float32(sgd.weight_decay) * values[part]
            for part, mask in pruned:
                gradients[part] *= mask
        velocity[:] *= np.float32(sgd.momentum)
        velocity[:] += gradients
        np.multiply(velocity, np.float32(sgd.learning_rate), out=gradients)
        values[:] -= gradients

    return move
