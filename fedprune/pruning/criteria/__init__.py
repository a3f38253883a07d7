"""Criteria: pure functions of evidence that score weights, the higher kept first."""

import inspect

from fedprune.pruning.criteria.gradient import gain, gradient, preserved, saliency
from fedprune.pruning.criteria.weight import carried, magnitude, random
from fedprune.types import Criterion

__all__ = ["carried", "gain", "gradient", "magnitude", "needs", "preserved", "random", "saliency"]


def needs(criterion: Criterion) -> tuple[str, ...]:
    """The kinds of evidence that a criterion reads: its parameter names, in order.

    >>> needs(magnitude), needs(gradient)
    (('weight',), ('grad',))
    """
    return tuple(inspect.signature(criterion).parameters)
