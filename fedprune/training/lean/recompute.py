"""A block of a model that keeps its input alone for the backward pass and is computed again there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedprune.models import draws

if TYPE_CHECKING:
    import torch
    from torch import nn


def recomputed(
    block: nn.Module, leaves: Sequence[torch.Tensor], forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """``forward`` of ``block``, whose trained tensors are ``leaves``; kept whole where its arguments are no tensors."""
    import torch

    if kwargs or not torch.is_grad_enabled() or not all(isinstance(value, torch.Tensor) for value in args):
        return forward(*args, **kwargs)
    return _recompute().apply(block, forward, len(args), *args, *leaves)


@functools.cache
def _recompute() -> Any:
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    class Seed(torch.autograd.Function):
        # A scalar with given gradients of what it is made from. torch.autograd.grad takes these as an argument too, but
        # then imports sympy to compare shapes: 40 MB and a second.
        @staticmethod
        def forward(ctx: Any, gradients: tuple[torch.Tensor, ...], *made: torch.Tensor) -> torch.Tensor:
            ctx.gradients = gradients
            return made[0].new_zeros(())

        @staticmethod
        def backward(ctx: Any, _: torch.Tensor) -> Any:
            gradients, ctx.gradients = ctx.gradients, ()
            return None, *gradients

    class Recompute(torch.autograd.Function):
        # The parameters are arguments so that their gradients leave as results: a backward pass of its own runs inside.
        @staticmethod
        def forward(ctx: Any, block: nn.Module, run: Callable[..., Any], count: int, *tensors: torch.Tensor) -> Any:
            ctx.block, ctx.run, ctx.leaves = block, run, tensors[count:]
            ctx.save_for_backward(*tensors[:count])
            before = draws.state()
            made = run(*tensors[:count])
            ctx.drawn_from = before if draws.state() != before else None
            return made

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            needed = ctx.needs_input_grad[3:]
            given = [t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needed, strict=False)]
            norms = [m for m in ctx.block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
            now = draws.state() if ctx.drawn_from is not None else None
            if now is not None:
                draws.restore(ctx.drawn_from)  # dropout drops the same again
            for norm in norms:
                norm.track_running_stats = False  # the first pass has moved its statistics
            try:
                with torch.enable_grad():
                    made = ctx.run(*given)
                    seed: Any = Seed.apply(gradients, *(made if isinstance(made, tuple) else (made,)))  # type: ignore[no-untyped-call]
            finally:
                for norm in norms:
                    norm.track_running_stats = True
                if now is not None:
                    draws.restore(now)
            wanted = [t for t, n in zip((*given, *ctx.leaves), needed, strict=True) if n]
            del made, gradients
            found = iter(torch.autograd.grad(seed, wanted, allow_unused=True))
            return None, None, None, *(next(found) if n else None for n in needed)

    return Recompute
