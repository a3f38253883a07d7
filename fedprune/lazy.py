"""Tensors that are made each time they are asked for, so that of a large model one layer at a time is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from fedprune.types import BoolTensor, Params, Tensor


class Lazy(Mapping[str, Tensor]):
    """Named tensors by how each is made; one that is asked for twice is made twice."""

    def __init__(self, made: Mapping[str, Callable[[], Tensor]]) -> None:
        self.made = made
        """How each is made."""

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, made anew."""
        return self.made[name]()

    def __contains__(self, name: object) -> bool:
        """Whether there is one, which is not made for that."""
        return name in self.made

    def __iter__(self) -> Iterator[str]:
        """Names, in order."""
        return iter(self.made)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.made)


def picked(tensors: Params, wanted: Callable[[str], bool]) -> Params:
    """Those whose names are wanted; of lazy ones none is made yet.

    >>> list(picked({"a": np.zeros(1), "b": np.zeros(2)}, lambda name: name == "b"))
    ['b']
    """
    if isinstance(tensors, Lazy):
        return Lazy({name: make for name, make in tensors.made.items() if wanted(name)})
    return {name: value for name, value in tensors.items() if wanted(name)}


def joined(*several: Params) -> Params:
    """All of them, under a name that occurs twice the last one; of lazy ones none is made yet.

    >>> joined({"a": np.zeros(1)}, {"a": np.ones(1)})["a"].tolist()
    [1.0]
    """
    if not any(isinstance(tensors, Lazy) for tensors in several):
        return {name: value for tensors in several for name, value in tensors.items()}
    return Lazy({name: make for tensors in several for name, make in _made(tensors).items()})


def _made(tensors: Params) -> Mapping[str, Callable[[], Tensor]]:
    return tensors.made if isinstance(tensors, Lazy) else {n: partial(tensors.__getitem__, n) for n in tensors}


def shrunk(mask: BoolTensor) -> Callable[[], BoolTensor]:
    """How to make a flat mask again, which meanwhile takes a bit a position, or four bytes for each that is kept.

    >>> shrunk(np.array([True, False]))().tolist()
    [True, False]
    """
    size = mask.size
    if 32 * np.count_nonzero(mask) > size or size > 2**32:
        bits = np.packbits(mask)
        return lambda: np.unpackbits(bits, count=size).view(np.bool_)
    at = np.flatnonzero(mask).astype(np.uint32)

    def make() -> BoolTensor:
        whole = np.zeros(size, np.bool_)
        whole[at] = True
        return whole

    return make
