"""How a local step moves what is trained, under masks: by plain SGD, Adam, or a method's own optimiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fedprune.training.lean.sparse import flat, like
from fedprune.types import Masks, Now, Optimiser

if TYPE_CHECKING:
    import torch

Named = Mapping[str, "torch.Tensor"]
Move = Callable[[Now], None]
"""Move what is trained, in place, by the gradients that it carries."""
_BETA2, _EPSILON = 0.999, 1e-8


class Steps(NamedTuple):
    """What an experiment asks of every local step, whatever the method minimises; the default is plain SGD."""

    optimiser: Callable[[Collection[str]], Optimiser] | None = None
    """From the names whose weights decay to what moves them, where the method brings no optimiser; None is SGD."""
    clip: float = 0.0
    """Greatest Euclidean norm of a step's gradient, over all that is trained; 0 is no limit."""
    proximal: float = 0.0
    """FedProx's μ: each step also minimises μ/2 ‖w − w₀‖², where w₀ is what training began with; 0 is none."""


PLAIN_STEPS = Steps()


def moved_plainly(params: Named, masks: Masks, decayed: Collection[str]) -> Move:
    """SGD in few calls of torch, decay on ``decayed`` alone; weights that are pruned come in as 0, and stay so.

    What has no gradient in a step stays as it is.
    """
    import torch

    names, tensors = list(params), list(params.values())
    shrinking = [i for i, name in enumerate(names) if name in decayed]
    masked = {names.index(name): _kept(mask) for name, mask in masks.items()}
    velocity = [torch.zeros_like(tensor) for tensor in tensors]

    def move(now: Now) -> None:
        sgd, grads = now.sgd, {i: tensor.grad for i, tensor in enumerate(tensors) if tensor.grad is not None}
        if decay := [i for i in shrinking if i in grads] if sgd.weight_decay else []:
            torch._foreach_add_([grads[i] for i in decay], [tensors[i] for i in decay], alpha=sgd.weight_decay)
        if held := [i for i in masked if i in grads]:
            torch._foreach_mul_([grads[i] for i in held], [masked[i] for i in held])
        moving = [velocity[i] for i in grads]
        torch._foreach_mul_(moving, sgd.momentum)
        torch._foreach_add_(moving, [*grads.values()])
        torch._foreach_add_([tensors[i] for i in grads], moving, alpha=-sgd.learning_rate)

    return move


def moved_by(optimiser: Optimiser, trained: Named, masks: Masks) -> Move:
    """Any optimiser: gradients of pruned weights are 0 before it, and pruned weights are +0 after it."""
    import torch

    keep = {name: _kept(mask) for name, mask in masks.items()}
    with torch.no_grad():
        state = optimiser.init(trained)

    def move(now: Now) -> None:
        grads = {name: tensor.grad for name, tensor in trained.items() if tensor.grad is not None}
        for name in keep.keys() & grads.keys():
            grads[name].mul_(keep[name])
        optimiser.update(trained, grads, state, now)
        for name, kept in keep.items():
            trained[name].masked_fill_(kept == 0, 0)

    return move


def plain_sgd() -> Optimiser:
    """v ← μ v + g + λ w, w ← w − η v, with what the experiment asks of plain training: the same bits as without it.

    Decay is of the model's parameters of two dimensions or more, and never of memory, whose tensors are no parameters.
    The state has a velocity, by name, of whatever has had a gradient; what has none in a step stays as it is.
    """

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        import torch
        from torch import nn

        for name, grad in grads.items():
            tensor = trained[name]
            if now.sgd.weight_decay and tensor.ndim > 1 and isinstance(tensor, nn.Parameter):
                grad = grad.add(tensor, alpha=now.sgd.weight_decay)
            if name not in state:
                state[name] = torch.zeros_like(tensor)
            state[name].mul_(now.sgd.momentum).add_(grad)
            tensor.add_(state[name], alpha=-now.sgd.learning_rate)

    return Optimiser(lambda trained: {}, update)


def adam(decayed: Collection[str]) -> Optimiser:
    """Adam with decoupled decay on ``decayed`` alone (AdamW; Loshchilov and Hutter, ICLR 2019, alg. 2).

    β₁ is the experiment's momentum, β₂ 0.999, ε 1e-8. Steps are counted for each tensor: one that has no gradient in a
    step stays as it is.
    """

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        import torch

        sgd = now.sgd
        for name, grad in grads.items():
            tensor = trained[name]
            if name not in state:
                state[name] = (torch.zeros_like(tensor), torch.zeros_like(tensor), 0)
            mean, square, count = state[name]
            state[name] = mean, square, count + 1
            mean.lerp_(grad, 1 - sgd.momentum)
            square.mul_(_BETA2).addcmul_(grad, grad, value=1 - _BETA2)
            if name in decayed:
                tensor.mul_(1 - sgd.learning_rate * sgd.weight_decay)
            spread = square.sqrt().div_((1 - _BETA2 ** (count + 1)) ** 0.5).add_(_EPSILON)
            tensor.addcdiv_(mean, spread, value=-sgd.learning_rate / (1 - sgd.momentum ** (count + 1)))

    return Optimiser(lambda trained: {}, update, slots=2)


OPTIMISERS: Mapping[str, Callable[[Collection[str]], Optimiser] | None] = {"sgd": None, "adam": adam}
"""What ``training.optimiser`` names."""


def steps_of(optimiser: str, clip: float = 0.0, proximal: float = 0.0) -> Steps:
    """What an experiment asks of every step, the optimiser by name."""
    return Steps(OPTIMISERS[optimiser], clip, proximal)


def restrained(trained: Named, masks: Masks, steps: Steps) -> Callable[[], None]:
    """What is done to the gradients of a step before it is taken: FedProx's term is added, then they are clipped.

    g ← g + μ (w − w₀) (Li et al., MLSys 2020, eq. 2), then g ← g · min(1, c / ‖g‖). The norm is that of kept weights
    alone, in the order of memory: sparse training, which has no others, comes to the same bits.
    """
    import torch

    start = {name: tensor.detach().clone() for name, tensor in trained.items()} if steps.proximal else {}
    keep = {name: flat(like(trained[name], mask)) for name, mask in masks.items()} if steps.clip else {}

    def restrain() -> None:
        grads = {name: tensor.grad for name, tensor in trained.items() if tensor.grad is not None}
        if steps.proximal:
            for name, grad in grads.items():
                grad.add_(trained[name] - start[name], alpha=steps.proximal)
        if steps.clip:
            squares = (
                float(torch.linalg.vector_norm(_values(grad, trained[name], keep.get(name)))) ** 2
                for name, grad in grads.items()
            )
            norm = sum(squares) ** 0.5
            if norm > steps.clip:
                torch._foreach_mul_(list(grads.values()), steps.clip / norm)

    return restrain


def _values(grad: torch.Tensor, tensor: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """A gradient's values in the order of its tensor's memory; only those that are kept."""
    import torch

    if grad.stride() != tensor.stride():
        grad = torch.empty_strided(tensor.shape, tensor.stride(), dtype=grad.dtype).copy_(grad)
    return flat(grad) if keep is None else flat(grad).masked_select(keep)


def _kept(mask: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(mask, np.float32))
