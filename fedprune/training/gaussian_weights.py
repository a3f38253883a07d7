"""Weights that are Gaussians: a step draws them, and moves mean and spread by the draw's gradient (Turbo-VBI)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedprune.counter_rng import uniforms
from fedprune.training.losses import Tensors, plain_loss
from fedprune.training.net import Net
from fedprune.types import Loss, Now

if TYPE_CHECKING:
    import torch

FAST = 10.0
"""A log σ² is so many times what is trained of it, so that SGD moves it a hundred times as far."""


def through_gaussians(
    layers: tuple[str, ...], spread: str, precision: str, examples: float, *, until: int, seed: int
) -> Loss:
    """E_q CE + KL(q ‖ p) / ``examples``, up to a constant, by one draw of all weights a step; after ``until`` the CE.

    q(w) = N(μ, σ²), μ the parameter and log σ² / `FAST` under its name after ``spread`` in memory; p(w) = N(0, 1 / ρ),
    E ρ in memory after ``precision``. Draws follow from ``seed``, round and step, alike on all devices.
    """

    def loss(
        net: Net, params: Tensors, inputs: torch.Tensor, labels: torch.Tensor, memory: Tensors, now: Now
    ) -> torch.Tensor:
        import torch

        if now.round > until:
            return plain_loss(net, params, inputs, labels, memory, now)
        drawn, apart = dict(params), torch.zeros(())
        for name in layers:
            mean, log_variance = params[name], FAST * memory[spread + name]
            u = uniforms(seed, f"{now.round}/{now.step}/{name}", tuple(mean.shape)).clip(1e-9, 1 - 1e-9)
            noise = torch.special.ndtri(torch.from_numpy(u)).to(mean.dtype)
            drawn[name] = mean + (log_variance / 2).exp() * noise
            second = mean.square() + log_variance.exp()
            apart = apart + 0.5 * (memory[precision + name] * second - log_variance).sum()
        return plain_loss(net, drawn, inputs, labels, memory, now) + apart / examples

    return loss
