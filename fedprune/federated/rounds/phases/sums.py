"""What devices say of how well a model does: sums over examples, of which the task makes its metric."""

from __future__ import annotations

import math

from fedprune.tasks import Task
from fedprune.wire.payload import Payload, count, number


def check_sums(task: Task, payload: Payload, examples: int) -> None:
    """ValueError where a sum of the task is missing, or none that so many ``examples`` can give.

    One without a bound is infinite, which arrives as null, in a model that has diverged.
    """
    for name in task.names:
        if task.classes:
            if (hits := count(payload, name)) > examples:
                expected = f"a whole number, 0 to {examples}: more hits than examples"
                raise ValueError(f"{name} is {hits}, expected {expected}")
        elif task.most < math.inf:
            if number(payload, name, least=0) > task.most * examples * _ROUNDED:
                raise ValueError(f"{name} is more than {examples} examples can give")
        elif payload.values.get(name, "") is not None:
            number(payload, name, least=0)


_ROUNDED = 1 + 1e-6  # sums of floats end in other bits
