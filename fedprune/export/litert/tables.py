"""Tables of a flatbuffer that nobody vouches for: every offset is checked before it is followed."""

import struct
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

_Value = TypeVar("_Value")


class ModelError(ValueError):
    """A file is not a model that can be read here; one line says why."""


class Source:
    """The bytes of a file, and what was read of them so far.

    Parts of a sound file do not overlap, so that what is read of it, each part once, is no longer than the file. One
    whose parts overlap could ask for thousands of times its length: reading stops at twice that.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._left = 2 * len(content)
        self._made: dict[Hashable, Any] = {}

    def number(self, code: str, position: int) -> int:
        """Return the number of the `struct` type ``code`` at ``position``."""
        size = struct.calcsize(f"<{code}")
        self.within(position, size)
        return int(struct.unpack_from(f"<{code}", self.content, position)[0])

    def within(self, position: int, size: int) -> range:
        """Return the positions of a part, all of them inside the file."""
        if position < 0 or size < 0 or position + size > len(self.content):
            raise ModelError("the file is cut short or damaged: a part of it lies outside")
        return range(position, position + size)

    def spend(self, size: int) -> None:
        """Count ``size`` bytes as read."""
        self._left -= size
        if self._left < 0:
            raise ModelError("the file is damaged: its parts overlap")

    def once(self, kind: str, part: range, make: Callable[[], _Value]) -> _Value:
        """Return what ``make`` gives for a part of the file, made at the first call and counted there."""
        key = (kind, part.start, part.stop)
        if key not in self._made:
            self.spend(len(part))
            self._made[key] = make()
        return cast(_Value, self._made[key])

    def bytes_of(self, part: range) -> bytes:
        """Return a copy of a part."""
        return self.once("bytes", part, lambda: self.content[part.start : part.stop])

    def table(self, position: int) -> "Table":
        """Return the table at ``position``."""
        return self.once("table", self.within(position, 4), lambda: Table(self, position))


class Table:
    """One table; its fields go by their place in the schema, counted from 0."""

    def __init__(self, source: Source, position: int) -> None:
        vtable = position - source.number("i", position)
        self._size = source.number("H", vtable + 2)
        slots = source.within(vtable, source.number("H", vtable))
        source.within(position, self._size)
        if len(slots) < 4 or len(slots) % 2 or self._size < 4:
            raise ModelError("the file is damaged: a table's list of fields is impossible")
        source.spend(self._size)
        self.source = source
        self.position = position
        self._slots = slots

    def number(self, field: int, code: str, default: int = 0) -> int:
        """Return a field that is a number of the `struct` type ``code``."""
        position = self._position(field, struct.calcsize(f"<{code}"))
        return default if position is None else self.source.number(code, position)

    def child(self, field: int) -> "Table | None":
        """Return a field that is a table; None where it is left out."""
        position = self._target(field)
        return None if position is None else self.source.table(position)

    def part(self, field: int, item_size: int) -> range:
        """Return where the elements of a field that is a vector lie; an empty range where it is left out."""
        position = self._target(field)
        if position is None:
            return range(0)
        return self.source.within(position + 4, self.source.number("I", position) * item_size)

    def count(self, field: int) -> int:
        """Return how many tables a field holds."""
        return len(self.part(field, 4)) // 4

    def item(self, field: int, index: int) -> "Table":
        """Return one of the tables that a field holds, ``index`` below `count`."""
        position = self.part(field, 4).start + 4 * index
        return self.source.table(position + self.source.number("I", position))

    def integers(self, field: int) -> tuple[int, ...]:
        """Return a field that is a vector of int32."""
        part = self.part(field, 4)
        code = f"<{len(part) // 4}i"
        return self.source.once("int32", part, lambda: struct.unpack_from(code, self.source.content, part.start))

    def text(self, field: int) -> str:
        """Return a field that is a string, what is not UTF-8 of it replaced."""
        part = self.part(field, 1)
        content = self.source.content
        return self.source.once("text", part, lambda: content[part.start : part.stop].decode(errors="replace"))

    def _position(self, field: int, size: int) -> int | None:
        slot = 4 + 2 * field
        offset = self.source.number("H", self._slots.start + slot) if slot + 2 <= len(self._slots) else 0
        if offset and (offset < 4 or offset + size > self._size):
            raise ModelError("the file is damaged: a field lies outside its table")
        return self.position + offset if offset else None

    def _target(self, field: int) -> int | None:
        position = self._position(field, 4)
        return None if position is None else position + self.source.number("I", position)
