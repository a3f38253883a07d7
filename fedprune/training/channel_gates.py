"""Gates on channels while a net is trained: hard ones with a soft gradient, and what of the weights they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from fedprune.graph.coupling import Group, Member
from fedprune.training.straight_through import straight_through

if TYPE_CHECKING:
    import torch


def there(chances: torch.Tensor) -> torch.Tensor:
    """1 where a chance is ½ or more and for the likeliest channel, else 0; the gradient passes through."""
    return straight_through(chances, lambda p: ((p >= 0.5) | (p == p.max())).to(p.dtype))


def gated(
    params: Mapping[str, torch.Tensor], members: Mapping[str, Sequence[Member]], gates: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The parameters, with each channel's rows in its group's members times its gate; gates are (channels,)."""
    import torch

    found = dict(params)
    for name, gate in gates.items():
        for m in members[name]:
            places, each = torch.from_numpy(m.positions.ravel()), gate.repeat_interleave(m.positions.shape[1])
            factors = torch.ones(m.shape[0], dtype=gate.dtype).index_copy(0, places, each)
            found[m.name] = found[m.name] * factors.reshape(-1, *[1] * (len(m.shape) - 1))
    return found


def weights_left(
    groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]], gates: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What part of all matrices and kernels gates leave: a gate counts in rows, and in columns that read it."""
    import torch

    extents: dict[str, list[float | torch.Tensor]] = {n: [*shape] for n, shape in shapes.items() if len(shape) > 1}
    total = sum(prod(shapes[name]) for name in extents)
    for group in groups:
        for m in group.members:
            if m.name in extents:
                extents[m.name][m.dim] -= m.positions.shape[1] * (1 - gates[group.name]).sum()
    return torch.as_tensor(sum(prod(each) for each in extents.values())) / total
