"""Maps of a batch: how large, with which halo, and where their values lie in a buffer."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def map(self) -> Map:
        """Its values, without the halo."""
        return self.shifted(0, 0)

    def shifted(self, rows: int, columns: int) -> Map:
        """The map from another position on, which may lie in the halo."""
        row, step = (self.size.width + 2 * self.halo[1]) * self.lanes, self.lanes
        channel = (self.size.height + 2 * self.halo[0]) * row
        at = (self.halo[0] + rows) * row + (self.halo[1] + columns) * step
        return Map(Place(self.buffer, at), channel, row, step)


def elements(size: Size, halo: Halo, lanes: int) -> int:
    """Of a map with its halo."""
    return size.channels * (size.height + 2 * halo[0]) * (size.width + 2 * halo[1]) * lanes


def held(size: Size, halo: Halo, lanes: int) -> Held:
    """A map in a new buffer."""
    return Held(Buffer(elements(size, halo, lanes)), size, halo, lanes)


def flat(size: Size, *maps: Map) -> Size:
    """The size with all positions in one row, where no row of any map is followed by anything else."""
    if all(map.row == size.width * map.step for map in maps) and len({map.step for map in maps}) == 1:
        return Size(size.channels, 1, size.height * size.width)
    return size
