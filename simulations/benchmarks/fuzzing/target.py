"""What is fuzzed: honest inputs to mutate, what is done with each, and the errors that are a clean refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from simulations.benchmarks.fuzzing.mutate import mutated


class Target(NamedTuple):
    """One door through which bytes come in from outside."""

    seeds: Callable[[], Sequence[bytes]]
    """Honest inputs, small and few."""
    run: Callable[[bytes], None]
    """Take bytes as the product would; raise what the product raises."""
    documented: tuple[type[Exception], ...]
    """Errors that refuse an input cleanly."""
    spoil: Callable[[Sequence[bytes], np.random.Generator], bytes] = mutated
    """What makes an input of the honest ones."""
