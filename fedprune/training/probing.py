"""The loss of a model at other weights, without a gradient: what slopes along drawn directions are found by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fedprune.counter_rng import uniforms
from fedprune.tasks import Task, total
from fedprune.training import native
from fedprune.training.batches import as_input
from fedprune.types import Params, Tensor

if TYPE_CHECKING:
    from torch import nn

Loss = Callable[[Params], float]
"""Parameters and buffers -> the sum of the examples' losses, in evaluation mode."""


def direction(seed: int, name: str, probe: int, weight: Tensor) -> Tensor:
    """±1 for every weight that is not 0, float32: the same for all who have the seed."""
    signs = np.where(uniforms(seed, f"{name}/{probe}", weight.shape) < 0.5, np.float32(-1), np.float32(1))
    return np.where(weight != 0, signs, np.float32(0))


def slope(loss: Loss, params: Params, name: str, along: Tensor, epsilon: float) -> float:
    """(L(θ + εz) − L(θ − εz)) / 2ε, z a direction of one named parameter."""
    ahead, behind = (loss({**params, name: params[name] + np.float32(step) * along}) for step in (epsilon, -epsilon))
    return (ahead - behind) / (2 * epsilon)


def loss_of(model: nn.Module, batches: list[tuple[Tensor, Tensor]], task: Task) -> Loss:
    """The loss in float64, of which small differences say something."""
    import torch

    def loss(params: Params) -> float:
        state = {name: torch.from_numpy(np.asarray(value)) for name, value in params.items()}
        state = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
        found = 0.0
        with torch.no_grad():
            for inputs, labels in batches:
                given = as_input(inputs)
                given = given.double() if given.is_floating_point() else given
                target = torch.from_numpy(labels)
                target = target.double() if target.is_floating_point() else target
                found += total(task, torch.func.functional_call(model, state, (given,)), target)
        return found

    model.eval()
    return loss


def native_loss_of(model: native.Model, batches: list[tuple[Tensor, Tensor]], examples: int) -> Loss:
    """The same without torch, of examples' losses in float32; batches are of at most so many ``examples``."""
    load = native.loading(model, examples)

    def loss(params: Params) -> float:
        run = load(params)
        return float(sum(run(*batch)[1].astype(np.float64).sum() for batch in batches))

    return loss
