"""Whole gradients of a model's parameters: of the loss, of that gradient along a direction, of the flow of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fedprune.graph.shared import unique_state
from fedprune.tasks import CLASSIFICATION, Task
from fedprune.training.batches import Batches, as_input
from fedprune.training.net import lone_examples
from fedprune.types import Params, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

# All activations are 0 or so near to it that ReLU6 cuts nothing off and a swish is x/2. A power of 2, so that taking it
# out again costs no bit; float64 reaches from 2⁻¹⁰²² to 2¹⁰²³.
_INPUT = 2.0**-400


@contextmanager
def as_the_next_step(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """For a block, take gradients of these parameters alone, batch norm by each batch's own statistics.

    That is how the next training step sees them; running statistics do not move, and nothing is dropped out. One that
    gets one value a channel goes by its running statistics. Afterwards the model is in evaluation mode and holds no
    gradient.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    trained = {tensor: tensor.requires_grad for tensor in model.parameters()}
    model.train()
    layers = [layer for layer in layers if layer.training]  # not those that their owner keeps at rest
    model.eval()
    for layer in layers:
        layer.train()
        layer.track_running_stats = False
    for name, tensor in model.named_parameters():
        tensor.requires_grad_(name in names)
        tensor.grad = None
    try:
        with lone_examples(model):
            yield
    finally:
        for tensor, moves in trained.items():
            tensor.requires_grad_(moves)
            tensor.grad = None
        for layer in layers:
            layer.track_running_stats = True
        model.eval()


def gradients(
    model: nn.Module, batches: Batches, names: Collection[str], task: Task = CLASSIFICATION
) -> dict[str, Tensor]:
    """∂L/∂θ of each named parameter, pruned positions too, float32; L is the mean loss over all examples.

    Where batch norm is, an example's loss depends on those in its batch. Gradients of no examples are 0, and so is that
    of a parameter that has no part in the loss.
    """
    import torch

    params = {name: tensor for name, tensor in model.named_parameters() if name in names}
    examples = 0
    with as_the_next_step(model, names):
        for inputs, labels in batches:
            loss = task.loss(model(as_input(inputs)), torch.from_numpy(labels)) * len(labels)
            torch.autograd.backward(loss)  # adds up in place
            examples += len(labels)
        return {name: _mean(params[name], examples) for name in names}


def squares(model: nn.Module, batches: Batches, names: Sequence[str], task: Task = CLASSIFICATION) -> dict[str, Tensor]:
    """Mean over the examples of (∂L_i/∂θ)² of each named parameter, float32, L_i an example's own loss.

    Batch norm goes by its running statistics and nothing is dropped out, so that a gradient is of its example alone; a
    backward pass an example. Of no examples it is 0, and so is that of a parameter that has no part in the loss.
    """
    import torch

    model.eval()
    params = dict(model.named_parameters())
    wanted, examples = [params[name] for name in names], 0
    sums = [torch.zeros(tensor.shape, dtype=torch.float64) for tensor in wanted]
    with torch.enable_grad():
        for inputs, labels in batches:
            for at in range(len(labels)):
                loss = task.loss(model(as_input(inputs[at : at + 1])), torch.from_numpy(labels[at : at + 1]))
                for total, each in zip(sums, _derived(loss, wanted), strict=True):
                    total += each.double().square()
            examples += len(labels)
    found = zip(names, sums, strict=True)
    return {name: np.array((s / max(examples, 1)).numpy(), np.float32, order="C") for name, s in found}


def _mean(tensor: torch.Tensor, examples: int) -> Tensor:
    if tensor.grad is None:
        return np.zeros(tuple(tensor.shape), np.float32)
    return np.array((tensor.grad / max(examples, 1)).numpy(), np.float32, order="C")


def along(
    model: nn.Module,
    batches: Batches,
    names: Sequence[str],
    direction: Params,
    task: Task = CLASSIFICATION,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """H·v of the named parameters, float32, v their ``direction``; without one their gradient itself, as `gradients`.

    H is the Hessian among these parameters of L, the mean loss over all examples of outputs divided by
    ``temperature``; two backward passes a batch (Pearlmutter, 1994). What has no part in the loss is 0.
    """
    import torch

    params = dict(model.named_parameters())
    wanted, examples = [params[name] for name in names], 0
    towards = [torch.from_numpy(np.array(direction[name], np.float32)) for name in names] if direction else []
    sums = [torch.zeros_like(tensor) for tensor in wanted]
    with as_the_next_step(model, names):
        for inputs, labels in batches:
            loss = task.loss(model(as_input(inputs)) / temperature, torch.from_numpy(labels)) * len(labels)
            found = _derived(loss, wanted, create_graph=bool(towards))
            if towards:
                onto = torch.stack([(grad * v).sum() for grad, v in zip(found, towards, strict=True)]).sum()
                found = _derived(onto, wanted) if onto.requires_grad else [torch.zeros_like(each) for each in sums]
            for total, each in zip(sums, found, strict=True):
                total += each
            examples += len(labels)
    return {name: np.array((s / max(examples, 1)).numpy(), order="C") for name, s in zip(names, sums, strict=True)}


def _derived(value: torch.Tensor, wanted: Sequence[torch.Tensor], create_graph: bool = False) -> Sequence[torch.Tensor]:
    import torch

    return torch.autograd.grad(value, wanted, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def flow(model: nn.Module, input_shape: tuple[int, ...], names: Collection[str]) -> dict[str, Tensor]:
    """∂R/∂θ of each named parameter at |θ|, float64, where R = 1ᵀ(∏ |θ_l|)1 (SynFlow, Tanaka et al., 2020, eq. 2).

    R is the sum of the logits of the net with every weight replaced by its absolute value, on an input of ones. Batch
    norm scales by |γ|/σ, σ² its running variance; shifts, biases and means, are 0, as in the authors' nets before
    training. So R is of degree 1 in every layer, and Σ |θ| ∂R/∂θ over a layer that all paths go through is R. The model
    is not changed.
    """
    import torch

    model.eval()
    state = _without_shifts(model)
    with torch.enable_grad():
        wanted = [state[name].requires_grad_(True) for name in names]
        inputs = torch.full((1, *input_shape), _INPUT, dtype=torch.float64)
        logits = torch.func.functional_call(model, state, (inputs,))
        found = torch.autograd.grad(logits.sum(), wanted, allow_unused=True, materialize_grads=True)
    return {name: np.array((grad / _INPUT).numpy(), order="C") for name, grad in zip(names, found, strict=True)}


def _without_shifts(model: nn.Module) -> dict[str, torch.Tensor]:
    """Absolute values of all parameters and buffers in float64; 0 for what a layer adds or subtracts."""
    import torch
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd

    state = {
        name: tensor.detach().double().abs() if tensor.is_floating_point() else tensor
        for name, tensor in unique_state(model).items()
    }
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd | _BatchNorm):
            for key in ("bias", "running_mean"):
                name = f"{prefix}.{key}".removeprefix(".")
                if name in state:
                    state[name] = torch.zeros_like(state[name])
    return state
