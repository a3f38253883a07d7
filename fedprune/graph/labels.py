"""Labels of units: along each axis of each tensor, which unit a place belongs to, and which units are one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedprune.graph.operations import (
    Graph,
    Shape,
)
from fedprune.types import Tensor

FIXED = 0
"""The label of what belongs to no unit."""

Labels = tuple[Tensor, ...]
"""Along each axis of a tensor, the unit of each place."""


@dataclass
class Units:
    """The units of a graph's tensors; `of` resolves labels that are one."""

    graph: Graph
    labels: dict[str, Labels] = field(default_factory=dict)
    wild: frozenset[str] = frozenset()
    """Constants that one operation reads: they are cut as that needs them."""
    _parents: list[int] = field(default_factory=lambda: [FIXED])

    def fresh(self, count: int) -> Tensor:
        """So many new units."""
        start = len(self._parents)
        self._parents += range(start, start + count)
        return np.arange(start, start + count)

    def root(self, label: int) -> int:
        """The label that stands for all that are one with this."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def of(self, name: str, axis: int) -> Tensor:
        """The unit of each place along an axis of a tensor."""
        return self.resolved(self.labels[name][axis])

    def resolved(self, labels: Tensor) -> Tensor:
        """Labels, those that are one made equal."""
        return np.array([self.root(int(label)) for label in labels], np.int64)

    def join(self, first: Tensor, second: Tensor) -> None:
        """Make units at the same places one; what meets something fixed is fixed."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self.root(a), self.root(b)
            self._parents[max(a, b)] = min(a, b)

    def fix(self, labels: Tensor) -> None:
        """Say that these can never be removed."""
        self.join(labels, np.full_like(labels, FIXED))


def fixed(shape: Shape) -> Labels:
    """Return the labels of a tensor of which nothing could be removed."""
    return tuple(np.zeros(size, np.int64) for size in shape)
