"""Schedules: pure functions of a step. Whoever calls one says whether a step is a round or an optimiser's step."""

import math

from fedprune.types import Schedule


def constant(value: float) -> Schedule:
    """``value`` at every step.

    >>> constant(0.3)(7)
    0.3
    """
    return lambda step: value


def one_shot(before: float, after: float, *, at: int) -> Schedule:
    """``before`` until step ``at``, ``after`` from then on.

    >>> [one_shot(1.0, 0.1, at=5)(step) for step in (0, 4, 5, 9)]
    [1.0, 1.0, 0.1, 0.1]
    """
    return lambda step: after if step >= at else before


def linear(start: float, finish: float, *, begin: int = 0, end: int) -> Schedule:
    """A straight line from ``start`` at step ``begin`` to ``finish`` at ``end``, flat outside.

    >>> [linear(1.0, 0.5, end=10)(step) for step in (0, 5, 10, 20)]
    [1.0, 0.75, 0.5, 0.5]
    """
    return lambda step: finish + (start - finish) * (1 - _progress(step, begin, end))


def cubic(start: float, finish: float, *, begin: int = 0, end: int) -> Schedule:
    """f + (s − f)(1 − (t − t₀)/n)³, flat outside: Zhu & Gupta, 2017, eq. 1, for densities as for sparsities.

    >>> [cubic(1.0, 0.5, end=10)(step) for step in (0, 5, 10, 20)]
    [1.0, 0.5625, 0.5, 0.5]
    """
    return lambda step: finish + (start - finish) * (1 - _progress(step, begin, end)) ** 3


def exponential(start: float, finish: float, *, begin: int = 0, end: int) -> Schedule:
    """Geometric from ``start`` to ``finish``, both positive: the same factor every step, flat outside.

    >>> [exponential(1.0, 0.25, end=2)(step) for step in (0, 1, 2, 3)]
    [1.0, 0.5, 0.25, 0.25]
    """
    if start <= 0 or finish <= 0:
        raise ValueError(f"an exponential schedule runs between positive values, got {start} and {finish}")
    return lambda step: float(start * (finish / start) ** _progress(step, begin, end))


def cosine(start: float, finish: float = 0.0, *, end: int) -> Schedule:
    """f + (s − f)/2 · (1 + cos(π t / end)), flat after ``end``: the swap fraction of RigL (α) and FedTiny.

    >>> [round(cosine(0.3, end=10)(step), 3) for step in (0, 5, 10, 20)]
    [0.3, 0.15, 0.0, 0.0]
    """
    return lambda step: finish + (start - finish) * (1 + math.cos(math.pi * _progress(step, 0, end))) / 2


def _progress(step: int, begin: int, end: int) -> float:
    if end <= begin:
        return 1.0 if step >= end else 0.0
    return min(max((step - begin) / (end - begin), 0.0), 1.0)
