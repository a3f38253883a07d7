"""One batch of a net through torch in float64, and through the native trainer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fedprune.graph import trace
from fedprune.graph.shared import unique_state
from fedprune.native import program
from fedprune.native.machine import Machine
from fedprune.native.nodes import not_covered
from fedprune.native.state import state
from fedprune.types import Masks, Tensor


class Ran(NamedTuple):
    """What came of a batch."""

    outputs: Tensor
    loss: float
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def masked(model: nn.Module, density: float, seed: int = 0) -> Masks:
    """Masks of all matrices but small ones, and the model with pruned weights of 0."""
    rng = np.random.default_rng(seed)
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and density < 1:
            masks[name] = rng.random(tuple(parameter.shape)) < density
            masks[name].reshape(len(parameter), -1)[:, 0] = True  # a norm of a constant shows nothing but rounding
            with torch.no_grad():
                parameter.mul_(torch.from_numpy(masks[name]))
    return masks


def batch_of(shape: Sequence[int], classes: int, examples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, and labels without meaning."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, *shape)).astype(np.float32), rng.integers(0, classes, examples)


def in_torch(model: nn.Module, inputs: Tensor, labels: Tensor) -> Ran:
    """In float64."""
    exact = copy.deepcopy(model).double().train()
    outputs = exact(torch.from_numpy(inputs).double())
    loss = nn.functional.cross_entropy(outputs, torch.from_numpy(labels))
    loss.backward()
    gradients = {name: each.grad.numpy() for name, each in exact.named_parameters() if each.grad is not None}
    statistics = {name: each.numpy() for name, each in exact.state_dict().items() if "running" in name}
    return Ran(outputs.detach().numpy(), loss.item(), gradients, statistics)


def natively(
    model: nn.Module, masks: Masks, inputs: Tensor, labels: Tensor, *, at_a_time: int = 0, recompute: int = 0,
    threads: int = 1, instructions: str = "", draw: int = 0,
) -> Ran:  # fmt: skip
    """By the native trainer, ``at_a_time`` examples in the arena (0: all); what is dropped goes by ``draw``.

    All is computed twice that lies between two of the places where it may be cut, of which every ``recompute``-th is.
    """
    graph = trace(model, inputs, dropout=True)
    assert not_covered(graph) is None
    plan = program.plan(graph, at_a_time or len(labels))
    held = state(list(plan.nodes), masks)
    cuts = program.possible_cuts(plan)[recompute - 1 :: recompute] if recompute else ()
    own = program.training(plan, held, program.cross_entropy(plan.sizes[graph.outputs[0]].channels), cuts=cuts)
    machine = Machine(plan, held, [own], threads=threads, instructions=instructions)
    machine.load({name: value.detach().numpy() for name, value in unique_state(model).items()})
    outputs, losses = [], []
    for first in range(0, len(labels), at_a_time or len(labels)):
        part = slice(first, first + (at_a_time or len(labels)))
        machine.feed(own, inputs[part], labels[part], 1 / len(labels), draw, first)
        machine.run(own, len(labels[part]))
        outputs.append(machine.outputs(own, len(labels[part])))
        losses.append(machine.losses(own, len(labels[part])))
    values = machine.params()
    return Ran(
        np.concatenate(outputs), float(np.concatenate(losses).astype(np.float64).mean()), machine.gradients(),
        {name: value for name, value in values.items() if "running" in name},
    )  # fmt: skip


def same(one: Ran, other: Ran) -> bool:
    """Whether gradients and outputs are the same bits."""
    names = all(np.array_equal(one.gradients[name], other.gradients[name]) for name in one.gradients)
    return names and np.array_equal(one.outputs, other.outputs)


def apart(found: Ran, right: Ran, masks: Masks) -> float:
    """The largest error of outputs, loss, gradients of kept weights and statistics, of the largest value of each."""
    errors = [_apart(found.outputs, right.outputs), abs(found.loss - right.loss)]
    largest = max(np.abs(each).max() for each in right.gradients.values())
    for name, gradient in right.gradients.items():
        kept = masks.get(name, np.ones(gradient.shape, bool))
        # a gradient that is 0 but for rounding is measured by the others
        scale = max(np.abs(gradient).max(), 0.1 * largest)
        errors.append(np.abs((found.gradients[name] - gradient)[kept]).max(initial=0) / scale)
        assert not found.gradients[name][~kept].any() or kept.mean() >= 0.5
    errors += [_apart(found.statistics[name], value) for name, value in right.statistics.items()]
    return float(max(errors))


def _apart(found: Tensor, right: Tensor) -> float:
    return float(np.abs(found - right).max() / max(1e-3, np.abs(right).max()))
