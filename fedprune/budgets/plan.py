"""Planning: the largest part of a model that fits a budget, and the least lean way to train it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedprune.training.lean import Lean

_LEAST_MICRO_BATCH = 4
"""Below it, the statistics that batch norm takes of a micro-batch say too little."""


class Need(NamedTuple):
    """One budget and what a model takes of it, in bytes."""

    budget: str
    """``train_memory_bytes``, ``flash_bytes`` or ``sram_bytes``."""
    needed: int
    allowed: int
    """0 is no limit."""

    @property
    def met(self) -> bool:
        """Whether it fits."""
        return not self.allowed or self.needed <= self.allowed


def ways(batch: int, *, sparse: bool, recompute: bool = True) -> tuple[Lean, ...]:
    """Ways to train batches of ``batch`` examples, each meant to take less memory than the one before, and slower.

    Pruned weights without room (where there are any: ``sparse``) and recomputed blocks leave the result as it is, so
    they come before micro-batches, which batch norm sees one by one; those are halved down to 4 examples. A method
    with steps of its own (`training.steps_plainly` is false) has those alone: neither ``sparse`` nor ``recompute``.
    """
    found = [Lean(), Lean(sparse=True)] if sparse else [Lean()]
    if recompute:
        found.append(Lean(recompute=True, sparse=sparse))
    size = batch
    while (size := -(-size // 2)) >= _LEAST_MICRO_BATCH and size < (found[-1].micro_batch or batch):
        found.append(Lean(size, recompute=recompute, sparse=sparse))
    return tuple(found)


def largest(sizes: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """The largest of ascending ``sizes`` that fits, None where none does; what is smaller than a fitting one fits."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low - 1] if low else None


def densities(most: float) -> tuple[float, ...]:
    """Densities to try, ascending up to ``most``: two digits each, so that a plan reads well."""
    grid = sorted(round(digits * 10**power / 1000, 4) for power in (-1, 0, 1) for digits in range(10, 100))
    return (*(value for value in (*grid, 1.0) if value < most), most)


def widths(most: float) -> tuple[float, ...]:
    """Widths to try, ascending up to ``most``: sixteenths."""
    return (*(step / 16 for step in range(1, 17) if step / 16 < most), most)
