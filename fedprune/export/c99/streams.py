"""Layers that run side by side, row after row: in which order they work, and how many rows of a map that takes."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from fedprune.export.c99.program import ALL_ROWS, Layer, Loop, Map, Program

_TILES = {"conv": 8, "dense": 4}
"""Kernel -> positions that it works on at once."""
_BESIDE = 2  # layers whose rows another one waits for
_IDLE = 1.15  # of a tile's positions, at most so many times those that count


class Work(NamedTuple):
    """A layer makes rows of its output."""

    layer: int
    start: int
    stop: int


class Stream(NamedTuple):
    """Consecutive layers of a program, run for the rows of the last one."""

    first: int
    last: int
    rows: dict[int, int]
    """Storage of a map that only this stream uses -> how many of its rows are kept."""
    overlays: dict[int, int]
    """Storage of a map that is read here for the last time -> how many bytes before it the output must begin, at least,
    for each row to be written over rows that nothing reads any more."""


def band(program: Program, layer: Layer) -> int:
    """Return how many rows of its output a layer makes at once: so many that few places of a tile stay empty."""
    result = program.maps[layer.output]
    if layer.rows == ALL_ROWS:
        return result.height
    tile = _TILES.get(layer.kernel, 1)
    fits = (n for n in range(1, result.height) if -(-n * result.width // tile) * tile <= _IDLE * n * result.width)
    return next(fits, result.height)


def stream(program: Program, first: int, last: int) -> Stream | None:
    """Return layers ``first`` to ``last`` as a stream; None where a map between them is read elsewhere or otherwise."""
    inner = {program.maps[layer.output].storage for layer in program.layers[first:last]}
    if any(first < loop.first <= last or first <= loop.last < last for loop in program.loops):
        return None
    if last > first and not _closed(program, first, last, inner):
        return None
    order = work(program, first, last)
    rows = {storage: _kept(program, order, storage) for storage in inner}
    result = program.maps[program.layers[last].output]
    overlays = {}
    known = lives(program)
    for storage in {
        program.maps[at].storage for layer in program.layers[first : last + 1] for at in layer.inputs
    } - inner:
        kept = known[storage].is_carried(last) or storage in (*program.given, result.storage)
        if known[storage].last <= last and not kept:
            overlays[storage] = _distance(program, order, storage)
    return Stream(first, last, rows, overlays)


class Life(NamedTuple):
    """The first and the last layer that knows a storage; where a loop needs it again, that is the loop's last."""

    first: int
    last: int
    loop: Loop | None
    """The one that ends it, which found it there."""

    def is_carried(self, layer: int) -> bool:
        """Whether a turn of the loop that ``layer`` belongs to leaves it for the next."""
        return self.loop is not None and self.loop.first <= layer <= self.loop.last


@lru_cache(1)  # asked again for each stream that is tried
def lives(program: Program) -> Mapping[int, Life]:
    """Return storage -> its life."""
    found: dict[int, Life] = {}
    for at, layer in enumerate(program.layers):
        for index in (*layer.inputs, layer.output):
            storage = program.maps[index].storage
            found[storage] = Life(found.get(storage, Life(at, at, None)).first, at, None)
    for storage in program.kept & found.keys():
        found[storage] = Life(-1, len(program.layers), None)
    before = program.taken
    for storage, life in found.items():
        for loop in program.loops:
            starts = -1 if storage in before else life.first
            if starts < loop.first <= life.last <= loop.last:
                found[storage] = Life(life.first, loop.last, loop)
    return found


def work(program: Program, first: int, last: int) -> list[Work]:
    """Return the order in which the kernels' scheduler runs layers ``first`` to ``last``."""
    makers = {program.layers[at].output: at for at in range(first, last + 1)}
    made = dict.fromkeys(range(first, last + 1), 0)
    order: list[Work] = []

    def make(at: int, until: int) -> None:
        layer = program.layers[at]
        height = program.maps[layer.output].height
        while made[at] < until:
            stop = min(made[at] + band(program, layer), height)
            for source in layer.inputs:
                if makers.get(source, at) < at:  # one of a loop may be made after it is read
                    make(makers[source], min(layer.rows.until(stop), program.maps[source].height))
            order.append(Work(at, made[at], stop))
            made[at] = stop

    make(last, program.maps[program.layers[last].output].height)
    return order


def reads(program: Program, each: Work, source: int) -> tuple[int, int]:
    """Return the rows (from, until) of an input that a piece of work reads."""
    rows, height = program.layers[each.layer].rows, program.maps[source].height
    if rows == ALL_ROWS:
        return 0, height
    return max(0, rows.since(each.start)), min(rows.until(each.stop), height)


def _closed(program: Program, first: int, last: int, inner: set[int]) -> bool:
    if program.given & inner:
        return False
    makers = {program.maps[program.layers[at].output].storage: at for at in range(first, last)}
    used: set[int] = set()
    for at, layer in enumerate(program.layers):
        for source in layer.inputs:
            storage = program.maps[source].storage
            if storage not in inner:
                continue
            shape = program.maps[program.layers[makers[storage]].output]
            if not makers[storage] < at <= last or program.maps[source] != shape:
                return False
            used.add(storage)
        if len({source for source in layer.inputs if program.maps[source].storage in inner}) > _BESIDE:
            return False
    return used == inner and len(makers) == last - first


def _kept(program: Program, order: Sequence[Work], storage: int) -> int:
    # most rows between the last that is written and the first that is still read
    most, needed = 1, _needed_after(program, order, storage)
    for position, each in enumerate(order):
        if program.maps[program.layers[each.layer].output].storage == storage:
            most = max(most, each.stop - min(needed[position], each.start))
    return most


def _needed_after(program: Program, order: Sequence[Work], storage: int) -> list[int]:
    # for each piece of work, the first row of a map that it or a later one reads
    least = 1 << 30
    found = []
    for each in reversed(order):
        for source in program.layers[each.layer].inputs:
            if program.maps[source].storage == storage:
                least = min(least, reads(program, each, source)[0])
        found.append(least)
    return found[::-1]


def _distance(program: Program, order: Sequence[Work], storage: int) -> int:
    # the output's rows end where the first row begins that is still to be read
    last = order[-1].layer
    layer, result = program.layers[last], program.maps[program.layers[last].output]
    inputs = {program.maps[at] for each in order for at in program.layers[each.layer].inputs}
    source, *others = (each for each in inputs if each.storage == storage)
    if others:
        return result.size  # a row of one shape is no row of another: all of the output before all of the input
    needed = [*_needed_after(program, order, storage), 1 << 30]
    alike = layer.in_place and source[:3] == result[:3]
    distance = 0 if alike else -(1 << 30)  # never behind what is still to be read in the same row
    for position, each in enumerate(order):
        row = needed[position]
        if alike and needed[position + 1] >= each.stop:
            row = max(row, each.stop)  # each value is read before its place is written
        if each.layer == last and row < source.height:
            distance = max(distance, each.stop * result.row_bytes - row * source.row_bytes)
    return distance


@lru_cache(1)
def shapes(program: Program) -> Mapping[int, Map]:
    """Return storage -> its largest map."""
    found: dict[int, Map] = {}
    for each in program.maps:
        if each.storage not in found or each.size > found[each.storage].size:
            found[each.storage] = each
    return found
