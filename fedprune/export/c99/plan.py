"""The arena: which layers run side by side, and where each map lies, so that the least memory is needed."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from fedprune.export.c99.program import Program
from fedprune.export.c99.streams import Life, Stream, lives, shapes, stream

_ALIGNMENT = 8
_LONGEST = 12  # layers side by side: more would keep too many maps in memory at once
_TRIES = 60
_COMPARED = 1_000_000  # of buffers with each other, in all tries: what is left to find is not worth minutes
_MOST = 1 << 62  # bytes: more than any layout takes
_CROWDED = 1_000  # buffers that are taken, summed over all layers: too many to try every cut into streams


class Plan(NamedTuple):
    """Where everything lies in the arena."""

    streams: Sequence[Stream]
    offsets: Mapping[int, int]
    """Storage -> first byte."""
    rows: Mapping[int, int]
    """Storage -> rows that are kept of it; all of them where it is not named."""
    arena_bytes: int
    """The first of them are the kernels' working memory."""


class Buffer(NamedTuple):
    """Bytes of the arena, and the first and last stream during which they are taken."""

    key: int
    """The storage of a map; negative for working memory, which begins the arena."""
    size: int
    first: int
    last: int


Overlays = Mapping[tuple[int, int], int]
"""(what is read for the last time, what is written in the same stream) -> how far before it that must begin."""


def plan(program: Program) -> Plan:
    """Return the layout with the least arena that was found, layer after layer or in streams of rows."""
    alone = [_sure(stream(program, at, at)) for at in range(len(program.layers))]
    crowd = sum(1 + each.last - each.first for each in _buffers(program, alone)[0])
    ways = [alone] if crowd > _CROWDED else [alone, _best(program)]
    plans = [_laid_out(program, streams) for streams in ways]
    return min(plans, key=lambda each: each.arena_bytes)


def _sure(found: Stream | None) -> Stream:
    assert found is not None
    return found


def _best(program: Program) -> list[Stream]:
    # the cut into streams whose worst one needs the least memory by itself
    count = len(program.layers)
    best: list[tuple[tuple[int, int], list[Stream]]] = [((0, 0), [])]
    for end in range(1, count + 1):
        found: tuple[tuple[int, int], list[Stream]] = (_MOST, 0), []
        for start in range(end - 1, max(-1, end - 1 - _LONGEST), -1):
            made = stream(program, start, end - 1)
            if made is None:
                continue
            (peak, length), before = best[start]
            length += (end - start) ** 2
            buffers, overlays = _buffers(program, [made])
            if (max(peak, _least(buffers, overlays)), length) > found[0]:
                continue  # no layout of it is worth looking for
            need = _place(buffers, overlays)[1]
            if (max(peak, need), length) <= found[0]:
                found = (max(peak, need), length), [*before, made]
        best.append(found)
    return best[count][1]


def _laid_out(program: Program, streams: Sequence[Stream]) -> Plan:
    buffers, overlays = _buffers(program, streams)
    offsets, size = _place(buffers, overlays)
    rows = {storage: kept for each in streams for storage, kept in each.rows.items()}
    return Plan(streams, {key: at for key, at in offsets.items() if key >= 0}, rows, size)


def _buffers(program: Program, streams: Sequence[Stream]) -> tuple[list[Buffer], Overlays]:
    # what is in memory during these streams, those before and after them left out
    maps = shapes(program)
    first, last = streams[0].first, streams[-1].last
    position = {at: number for number, each in enumerate(streams) for at in range(each.first, each.last + 1)}
    taken, given = program.taken, program.given
    rows = {storage: kept for each in streams for storage, kept in each.rows.items()}
    known = lives(program)
    buffers = []
    for storage, shape in maps.items():
        made, used, _ = known.get(storage, Life(-1, -1, None))
        born = made if storage not in taken else -1
        dies = len(program.layers) if storage in given else max(used, 0) if storage in taken else used
        if dies < first or born > last:
            continue
        size = min(rows.get(storage, shape.height), shape.height) * shape.row_bytes
        buffers.append(Buffer(storage, _aligned(size), position.get(born, 0), position.get(dies, len(streams) - 1)))
    for number, each in enumerate(streams):
        scratch = max(layer.scratch_bytes for layer in program.layers[each.first : each.last + 1])
        buffers.append(Buffer(-1 - number, _aligned(scratch), number, number))
    overlays = {}
    for each in streams:
        result = program.maps[program.layers[each.last].output].storage
        overlays.update({(source, result): _aligned(distance) for source, distance in each.overlays.items()})
    return buffers, overlays


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _place(buffers: Sequence[Buffer], overlays: Overlays) -> tuple[dict[int, int], int]:
    by_size = sorted(buffers, key=lambda each: -each.size)
    random = Random(0)
    least = _least(buffers, overlays)
    best: tuple[dict[int, int], int] = {}, _MOST
    tried = set[tuple[int, ...]]()
    tries = min(_TRIES, 1 + _COMPARED // len(buffers) ** 2) if len(buffers) > 2 else 1
    for attempt in range(tries):
        order = by_size if attempt == 0 else sorted(buffers, key=lambda each: -each.size * random.uniform(0.1, 1))
        if (keys := tuple(each.key for each in order)) in tried:
            continue
        tried.add(keys)
        best = _greedy(order, overlays, best[1]) or best
        if best[1] <= least:
            break
    return best


def _least(buffers: Sequence[Buffer], overlays: Overlays) -> int:
    # what is there at once, less what may be written over what is read: no layout takes fewer bytes
    taken = [0] * (1 + max(each.last for each in buffers))
    for each in buffers:
        for at in range(each.first, each.last + 1):
            taken[at] += each.size
    known = {each.key: each for each in buffers}
    for (source, result), distance in overlays.items():
        before, after = known[source], known[result]
        if before.last == after.first:
            taken[before.last] -= max(0, min(before.size, after.size, after.size - distance))
    return max(taken)


def _greedy(order: Sequence[Buffer], overlays: Overlays, most: int) -> tuple[dict[int, int], int] | None:
    # each at the first place that is free, and the bytes that all take; None where these are not fewer than most
    placed = [(each, 0) for each in order if each.key < 0]
    size = max((each.size for each, _ in placed), default=0)
    for each in order:
        if each.key < 0:
            continue
        others = [(other, at) for other, at in placed if other.first <= each.last and each.first <= other.last]
        start = 0
        for since, until in sorted(_taken(each, *other, overlays) for other in others):
            if start <= since:
                break
            start = max(start, until)
        size = max(size, start + each.size)
        if size >= most:
            return None
        placed.append((each, start))
    return {each.key: at for each, at in placed}, size


def _taken(one: Buffer, other: Buffer, at: int, overlays: Overlays) -> tuple[int, int]:
    # between these two, both left out, one may not begin, where the other lies at this byte
    since, until = at - one.size, at + other.size
    if one.last == other.first and (one.key, other.key) in overlays:
        return since, min(until, at + overlays[one.key, other.key])
    if other.last == one.first and (other.key, one.key) in overlays:
        return max(since, at - overlays[other.key, one.key]), until
    return since, until
