"""Methods that come to an N:M pattern while devices train all weights."""

import numpy as np

from fedprune.methods.layers import Shapes, dense, masked
from fedprune.pruning.patterns import n_of_m
from fedprune.training.patterned import Pattern, through_pattern
from fedprune.types import Found, Local, Method, Model


def patterned(layers: Shapes, pattern: Pattern, begin: int, stop: int) -> Method:
    """Devices compute with each round's pattern until ``stop``, after which the server keeps the last of them for good.

    ValueError where a pattern or a round is out of range.
    """
    n, m, _ = pattern(stop)
    if not 0 < n < m:
        raise ValueError(f"{n}:{m} is no pattern")
    if not 0 <= begin < stop:
        raise ValueError(f"begin {begin} is not from 0 to before stop {stop}")
    names = tuple(layers)
    loss = through_pattern(names, lambda round: pattern(round) if round <= stop else (n, m, 1.0))

    def act(model: Model, found: Found, round: int) -> Model:
        kept = {name: n_of_m(np.abs(model.params[name]), n, m) for name in names} if round == stop else {}
        return masked(model, kept) if kept else model

    return Method(dense(layers), local=Local(loss), act=act)
