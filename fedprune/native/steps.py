"""The steps of a program, with the fields of src/program.h in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from math import inf
from typing import NamedTuple

import numpy as np

from fedprune.native.arena import Buffer
from fedprune.types import Tensor

FIELDS = 40
LAYOUT = 6
"""Of the steps, as in src/program.h: a library of another one is not run."""


class Place(NamedTuple):
    """An element of a buffer."""

    buffer: Buffer
    shift: int = 0

    def __add__(self, elements: object) -> Place:
        """The place so many elements further."""
        assert isinstance(elements, int)
        return Place(self.buffer, self.shift + elements)


class Map(NamedTuple):
    """Where a map lies: lane 0 of its first position, and the distances of channels, rows, positions and groups."""

    at: Place | None
    channel: int
    row: int
    step: int
    group: int


NO_MAP = Map(None, 0, 0, 0, 0)


class Size(NamedTuple):
    """Of a map: channels, height, width."""

    channels: int
    height: int
    width: int


class Clip(NamedTuple):
    """Bounds of values."""

    low: float = -inf
    high: float = inf


FREE = Clip()
Field = int | float | Place | None
Fields = Sequence["Field | Map | Size | Clip"]


class Kind(IntEnum):
    """What a step does; src/program.h says it of each, and its fields."""

    GATHER = 0
    DENSE_GATHER = 1
    WEIGHT_GRADIENT = 2
    DENSE_WEIGHT_GRADIENT = 3
    BIAS_GRADIENT = 4
    SUMS = 5
    STATISTICS = 6
    AT_REST = 7
    NORMALISE = 8
    NORMALISE_BACK = 9
    CLIP_BACK = 10
    UNARY = 11
    UNARY_BACK = 12
    BINARY = 13
    MULTIPLY_BACK = 14
    POOL = 15
    POOL_BACK = 16
    COPY = 17
    ZERO = 18
    HALO = 19
    CROSS_ENTROPY = 20
    SQUARED_ERROR = 21
    DROP = 22


class Step(NamedTuple):
    """One step; a field that is None is -1, no place."""

    kind: Kind
    fields: tuple[Field, ...]


def step(kind: Kind, *fields: Field | Map | Size | Clip) -> Step:
    """A step of these fields, maps and sizes written out."""
    return Step(kind, tuple(_flat(fields)))


def _flat(fields: Fields) -> Iterator[Field]:
    for field in fields:
        if isinstance(field, Map | Size | Clip):
            yield from field
        else:
            yield field


def encoded(steps: Sequence[Step]) -> Tensor:
    """Steps whose buffers are placed, as the library reads them: (steps, FIELDS) int64, floats by their bits."""
    table = np.full((len(steps), FIELDS), 0, np.int64)
    for row, (kind, fields) in zip(table, steps, strict=True):
        row[0] = kind
        for at, field in enumerate(fields, start=1):
            if isinstance(field, Place):
                row[at] = field.buffer.at + field.shift
            elif isinstance(field, float):
                row[at] = np.float64(field).view(np.int64)
            else:
                row[at] = -1 if field is None else field
    return table
