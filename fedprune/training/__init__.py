"""A device's local steps: masked SGD, one page, open at four points; and the evaluation that goes with it.

Written by hand and without torch.optim, whose import alone costs a small device a second and 68 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune.training import lean as lean_training
from fedprune.training.batches import Batches, as_input
from fedprune.training.lean import PLAIN, Lean, SubModel
from fedprune.types import Local, Masks, Params, Sgd, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

Named = Mapping[str, "torch.Tensor"]


class Outcome(NamedTuple):
    """Sums over the examples seen, so that outcomes of devices add up."""

    loss: float
    correct: int
    examples: int


def train(
    model: nn.Module,
    batches: Batches,
    optimiser: Sgd,
    masks: Masks | None = None,
    *,
    penalty: Callable[[Named], torch.Tensor] | None = None,
    after_backward: Callable[[Named, Named], None] | None = None,
    after_step: Callable[[Named], None] | None = None,
    before_step: Callable[[int], None] | None = None,
    local: Local = Local(),
    memory: Any = {},
    round: int = 0,
    lean: Lean = PLAIN,
    inner: Sequence[SubModel] = (),
    turn: Callable[[int], int] | None = None,
) -> Outcome:
    """Train ``model`` in place; pruned weights, which must come in as 0, are exactly 0 after every step.

    ``before_step(i)`` comes before step i, counted from 0. ``penalty(params)`` is added to the loss,
    ``after_backward(params, grads)`` may change gradients in place, ``after_step(params)`` the parameters. ``lean``
    trades time for memory: recomputed and sparse training end in the same bits, micro-batches in the same weights to
    rounding where no batch norm sees, and no dropout draws for, each of them alone; the three functions then see a
    sparse parameter as its kept values, flat. Step i trains the whole model where ``turn(i)`` is 0, else
    ``inner[turn(i) - 1]``. Returns the mean-loss sum and hits over the examples as trained on. RuntimeError where a
    parameter has no part in the loss.
    """
    import torch
    from torch.nn import functional

    masks = masks or {}
    loss_sum, correct, examples = 0.0, 0, 0
    model.train()
    import contextlib

    stack = contextlib.ExitStack()
    if local.around:
        stack.enter_context(local.around(model))
    matrices = {name for name, tensor in model.named_parameters() if tensor.ndim > 1}
    with lean_training.prepared(model, masks, lean, inner) as (params, choose):
        names, tensors = list(params), list(params.values())
        decayed = [i for i, name in enumerate(names) if name in matrices]
        masked = [] if lean.sparse else [names.index(name) for name in masks]
        keep = [torch.from_numpy(np.asarray(masks[names[i]], np.float32)) for i in masked]
        velocity = [torch.zeros_like(tensor) for tensor in tensors]
        _forget(tensors)
        for step, (inputs, labels) in enumerate(batches):
            if before_step is not None:
                before_step(step)
            choose(turn(step) if turn is not None else 0)
            for part, (some, few, share) in enumerate(lean_training.parts(inputs, labels, lean.micro_batch)):
                target = torch.from_numpy(few)
                logits = model(as_input(some))
                loss = functional.cross_entropy(logits, target)
                objective = loss if share == 1 else loss * share
                objective = objective if penalty is None or part else objective + penalty(params)
                # Adds up in place; torch.autograd.grad would hold the sum and a whole gradient besides.
                torch.autograd.backward(objective, inputs=tensors)
                loss_sum += loss.item() * len(few)
                correct += int((logits.argmax(1) == target).sum())
                examples += len(few)
            grads = _gradients(names, tensors)
            with torch.no_grad():
                if after_backward is not None:
                    after_backward(params, dict(zip(names, grads, strict=True)))
                if optimiser.weight_decay:
                    torch._foreach_add_(
                        [grads[i] for i in decayed], [tensors[i] for i in decayed], alpha=optimiser.weight_decay
                    )
                if masked:
                    torch._foreach_mul_([grads[i] for i in masked], keep)
                torch._foreach_mul_(velocity, optimiser.momentum)
                torch._foreach_add_(velocity, grads)
                torch._foreach_add_(tensors, velocity, alpha=-optimiser.learning_rate)
                if after_step is not None:
                    after_step(params)
            del grads
            _forget(tensors)
    return Outcome(loss_sum, correct, examples)


def _gradients(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    grads = [tensor.grad for tensor in tensors]
    for name, grad in zip(names, grads, strict=True):
        if grad is None:
            raise RuntimeError(f"{name} has no part in the loss, so it cannot be trained")
    return [grad for grad in grads if grad is not None]


def _forget(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.grad = None


def evaluate(model: nn.Module, batches: Batches) -> Outcome:
    """Loss sum and hits of ``model`` in evaluation mode; nothing is changed but the mode."""
    import torch
    from torch.nn import functional

    loss_sum, correct, examples = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in batches:
            target, logits = torch.from_numpy(labels), model(as_input(inputs))
            loss_sum += functional.cross_entropy(logits, target, reduction="sum").item()
            correct += int((logits.argmax(1) == target).sum())
            examples += len(labels)
    return Outcome(loss_sum, correct, examples)


def predict(model: nn.Module, batches: Batches) -> Tensor:
    """Logits (n, classes), float32, in evaluation mode."""
    import torch

    model.eval()
    with torch.no_grad():
        return np.concatenate([model(as_input(inputs)).numpy() for inputs, _ in batches])


def load_state(model: nn.Module, state: Params) -> None:
    """Set every parameter and buffer of ``model``, in place. RuntimeError where names or shapes differ."""
    import torch

    own = model.state_dict()
    if own.keys() != state.keys():
        raise RuntimeError(f"not the model's state; these names differ: {sorted(own.keys() ^ state.keys())[:3]}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise RuntimeError(f"{name} has shape {state[name].shape}, the model {tuple(tensor.shape)}")
    for name, tensor in own.items():
        tensor.copy_(torch.from_numpy(np.asarray(state[name], order="C")))


def state_of(model: nn.Module) -> Params:
    """Copies of every parameter and buffer, as numpy arrays in C order."""
    return {name: np.array(value.detach().numpy(), order="C") for name, value in model.state_dict().items()}


def in_batches(
    inputs: Callable[[Tensor], Tensor], labels: Tensor, order: Sequence[int] | Tensor, size: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of nearly equal size, none above ``size``, over ``order``; ``inputs`` maps indices to float32 inputs."""
    order = np.asarray(order)
    for part in np.array_split(order, -(-len(order) // size)) if len(order) else []:
        yield inputs(part), labels[part]


def one_thread() -> None:
    """Compute with one thread, so that a result does not depend on which process, or how many, computed it."""
    import torch

    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def rounded(local: Local) -> Local:
    from fedprune.training.quantised import quantised

    return local._replace(around=quantised)


def chosen(*args: Any) -> Tensor:
    raise NotImplementedError
