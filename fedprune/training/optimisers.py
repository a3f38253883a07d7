"""How a local step moves what is trained, under masks: by plain SGD, or by a method's own optimiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.types import Masks, Now, Optimiser

if TYPE_CHECKING:
    import torch

Named = Mapping[str, "torch.Tensor"]
Move = Callable[[Now], None]
"""Move what is trained, in place, by the gradients that it carries."""


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


def _kept(mask: Any) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.asarray(mask, np.float32))
