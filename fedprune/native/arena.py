"""Where the buffers of a program lie in one arena, whose size is known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 16
"""Elements of four bytes: a cache line."""


def room(elements: int) -> int:
    """What so many elements take of an arena: whole cache lines."""
    return -(-elements // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class Buffer:
    """Elements of four bytes that lie together; ``at`` is where, once they are placed."""

    elements: int
    at: int = -1


def place(buffers: Mapping[Buffer, tuple[int, int]], start: int = 0) -> int:
    """Set where each buffer lies and return where the last one ends, both in elements.

    ``buffers`` have the first and the last step that needs them; what lives at the same time does not overlap. The
    largest come first, each in the lowest gap that it fits.
    """
    placed: list[tuple[int, int, int, int]] = []  # at, end, first, last
    size = start
    for buffer, (first, last) in sorted(buffers.items(), key=lambda item: (-item[0].elements, item[1])):
        at = start
        for begin, end, one, other in sorted(placed):
            if one <= last and first <= other:
                if begin - at >= buffer.elements:
                    break
                at = max(at, end)
        buffer.at = at
        end = at + room(buffer.elements)
        placed.append((at, end, first, last))
        size = max(size, end)
    return size


def lives(uses: Sequence[Sequence[Buffer]]) -> dict[Buffer, tuple[int, int]]:
    """The first and the last step that uses each buffer, of what each step uses."""
    found: dict[Buffer, tuple[int, int]] = {}
    for at, used in enumerate(uses):
        for buffer in used:
            found[buffer] = (found.get(buffer, (at, at))[0], at)
    return found
