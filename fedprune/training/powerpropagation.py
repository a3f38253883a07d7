"""Powerpropagation: the richer a weight the faster it moves, so that most end near 0 (Schwarz et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fedprune.training.optimisers import Named, plain_sgd
from fedprune.types import Now, Optimiser


def powered(names: Collection[str], beta: float) -> Optimiser:
    """Plain SGD on w in the place of the weights θ = w |w|^(β − 1) of these names (arXiv 2110.00296, eq. 1 and 2).

    w's gradient is ∂L/∂θ · β |w|^(β − 1), so that a weight of 0 stays; momentum and decay are those of w. The others
    move plainly. ValueError where β is below 1.
    """
    if not beta >= 1:
        raise ValueError(f"beta {beta} is below 1")
    plain = plain_sgd()

    def init(trained: Named) -> dict[str, Any]:
        from torch import nn

        roots = {name: trained[name].sign() * trained[name].abs() ** (1 / beta) for name in names if name in trained}
        # decay is of parameters
        return {
            "roots": {name: nn.Parameter(root, False) for name, root in roots.items()},
            "plain": plain.init(trained),
        }

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        roots = state["roots"]
        chained = {
            name: grad * beta * roots[name].abs() ** (beta - 1) if name in roots else grad
            for name, grad in grads.items()
        }
        plain.update({**trained, **roots}, chained, state["plain"], now)
        for name in roots.keys() & grads.keys():
            trained[name].copy_(roots[name] * roots[name].abs() ** (beta - 1))

    return Optimiser(init, update, slots=2)
