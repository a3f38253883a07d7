"""Residual branches: layers side by side with a way that stays open when all of them are gone."""

from __future__ import annotations

from collections.abc import Sequence

from fedprune.graph.coupling import Group


def branches(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """Last layer -> weights of each residual branch of two or more layers, in order of execution.

    A branch ends in a layer that adds to channels which another layer makes as well, and goes back through all channels
    that it alone reads. It is none where those that are added to would not be there without it: where all that others
    make of them comes from themselves and later. Shortcuts of one layer are none either. What a concatenation joins is
    no sum, but its channels are no group of several layers.

    >>> import torch
    >>> from fedprune import models
    >>> from fedprune.graph.coupling import coupled_channels
    >>> net = models.build("resnet8", (3, 8, 8), 10, seed=0)
    >>> list(branches(coupled_channels(net, torch.zeros(2, 3, 8, 8))))
    ['stage1.0.second.conv', 'stage2.0.second.conv', 'stage3.0.second.conv']
    """
    weights = {group.name: [m for m in group.members if m.produces and len(m.shape) > 1] for group in groups}
    made = {name: [m.layer for m in members] for name, members in weights.items()}
    adding = {n: [m.layer for at, m in enumerate(each) if not at or m.shape[1] > 1] for n, each in weights.items()}
    read = {g.name: {m.layer for m in g.members if not m.produces} for g in groups}
    of = {layer: name for name, readers in read.items() for layer in readers}

    def back(last: str) -> tuple[str, ...]:
        inside = [last]
        while (before := of.get(inside[0])) is not None and read[before] <= set(inside):
            inside = [*made[before], *inside]
        return tuple(inside)

    found: dict[str, tuple[str, ...]] = {}
    for name, layers in adding.items():
        for at, last in enumerate(layers):
            inside = back(last)
            others = [layer for layer in layers if layer != last]
            open_still = any(layers.index(other) < at or of.get(back(other)[0]) != name for other in others)
            if len(inside) > 1 and open_still:
                found[last] = tuple(f"{layer}.weight" for layer in inside)
    return found
