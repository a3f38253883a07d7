"""Maps of a batch: how large, with which halo, and where their values lie in a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fedprune.native.arena import Buffer
from fedprune.native.steps import Map, Place, Size

Halo = tuple[int, int]
"""Rows above and below, columns left and right, of zeros around a map."""


@dataclass(frozen=True, eq=False)
class Held:
    """A map in a buffer of its own, with its halo."""

    buffer: Buffer
    size: Size
    halo: Halo
    lanes: int
    groups: int

    @property
    def map(self) -> Map:
        """Its values, without the halo."""
        return self.shifted(0, 0)

    def shifted(self, rows: int, columns: int) -> Map:
        """The map from another position on, which may lie in the halo."""
        row, step = (self.size.width + 2 * self.halo[1]) * self.lanes, self.lanes
        channel = (self.size.height + 2 * self.halo[0]) * row
        at = (self.halo[0] + rows) * row + (self.halo[1] + columns) * step
        return Map(Place(self.buffer, at), channel, row, step, self.size.channels * channel)


def strided(map: Map, stride: tuple[int, int]) -> Map:
    """Every so manieth row and column of a map, whose channels are told by offsets."""
    return map._replace(channel=0, row=map.row * stride[0], step=map.step * stride[1])


class Lanes(NamedTuple):
    """How a batch's examples lie: so many side by side, in so many groups."""

    lanes: int
    groups: int

    @property
    def all(self) -> int:
        """The most examples that there is room for."""
        return self.lanes * self.groups


def held(size: Size, halo: Halo, of: Lanes) -> Held:
    """A map in a new buffer."""
    cells = (size.height + 2 * halo[0]) * (size.width + 2 * halo[1])
    return Held(Buffer(size.channels * cells * of.all), size, halo, *of)


def flat(size: Size, *maps: Map) -> Size:
    """The size with all positions in one row, where no row of any map is followed by anything else."""
    if all(map.row == size.width * map.step for map in maps) and len({map.step for map in maps}) == 1:
        return Size(size.channels, 1, size.height * size.width)
    return size
