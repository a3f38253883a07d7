"""Half-space steps: groups of weights that a penalty drives to exactly 0, where they stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedprune.graph.coupling import Member
from fedprune.training.optimisers import Named, plain_sgd
from fedprune.types import Now, Optimiser

if TYPE_CHECKING:
    import torch


def half_space(
    groups: Mapping[str, Sequence[Member]], amplify: float = 2.0, cap: float = 10.0, epsilon: float = 0.0
) -> Optimiser:
    """Plain SGD with a penalty λ ‖x‖ of each channel x of ``groups`` (DHSPG; Chen et al., ICLR 2023, alg. 2).

    x̂ = x − η (d + λ x / ‖x‖), where d is the direction of plain SGD, momentum and decay included; then 0 where
    x̂ᵀx < ε ‖x‖², and where x was 0 already. Where d would have x grow, xᵀd < 0, λ is raised to ``amplify`` times the
    least that lets it shrink, −xᵀd / ‖x‖, and to ``cap`` at most.

    What is trained holds each group's λ under its name, (channels,); a channel whose λ is 0 moves plainly.
    """
    plain = plain_sgd()

    def update(trained: Named, grads: Named, state: dict[str, Any], now: Now) -> None:
        import torch

        pushed = {name: members for name, members in groups.items() if bool((trained[name] > 0).any())}
        before = {m.name: trained[m.name].clone() for members in pushed.values() for m in members}
        plain.update(trained, grads, state, now)
        for name, members in pushed.items():
            wanted = trained[name]
            rows = [(_rows(before[m.name], m), _rows(trained[m.name], m)) for m in members]
            norm = torch.stack([x.square().sum(1) for x, _ in rows]).sum(0).sqrt()
            onto = torch.stack([(x * (x - moved)).sum(1) for x, moved in rows]).sum(0)  # η xᵀd
            needed = amplify * (-onto / (now.sgd.learning_rate * norm)).nan_to_num(0.0).clamp(0.0, cap / amplify)
            shrink = now.sgd.learning_rate * torch.maximum(wanted, needed) * (wanted > 0) / norm  # of x, by the penalty
            ahead = norm.square() * (1 - shrink) - onto  # x̂ᵀx
            dead = (wanted > 0) & ~(ahead.nan_to_num(0.0) > epsilon * norm.square())
            shrink = torch.where(dead, 0.0, shrink)
            for m, (x, moved) in zip(members, rows, strict=True):
                there = (moved - shrink[:, None] * x).masked_fill(dead[:, None], 0.0)
                trained[m.name][m.positions.ravel()] = there.reshape(m.positions.size, *m.shape[1:])

    return Optimiser(plain.init, update)


def _rows(tensor: torch.Tensor, member: Member) -> torch.Tensor:
    return tensor[member.positions.ravel()].reshape(len(member.positions), -1)
