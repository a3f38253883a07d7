"""What a net draws by itself: from the generators that torch, numpy and Python keep for a whole process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

State = tuple[bytes, bytes, tuple[Any, ...], tuple[Any, ...]]


def begin(number: int) -> None:
    """Set the three generators by a number in [0, 2⁶⁴)."""
    import torch

    # torch.manual_seed asks for other devices besides: a hundred times as long
    torch.default_generator.manual_seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002
    random.seed(number)


def state() -> State:
    """Where the three generators are: equal values where nothing was drawn in between."""
    import torch

    kind, key, *rest = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), key.tobytes(), (kind, *rest), random.getstate()


def restore(to: State) -> None:
    """Set the three generators to where they were."""
    import torch

    torchs, key, (kind, *rest), pythons = to
    torch.set_rng_state(torch.frombuffer(bytearray(torchs), dtype=torch.uint8))
    np.random.set_state((kind, np.frombuffer(key, np.uint32), *rest))  # noqa: NPY002
    random.setstate(pythons)


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """For a block, set the three generators by a number in [0, 2⁶⁴); after it they go on as if it had drawn nothing."""
    before = state()
    begin(number)
    try:
        yield
    finally:
        restore(before)
