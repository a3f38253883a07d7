"""A plan's memory, byte by byte: the schedule of the kernels followed with a name for what every byte holds."""

from math import ceil, floor
from typing import NamedTuple

import numpy as np

from fedprune.export.c99.plan import Plan
from fedprune.export.c99.program import ALL_ROWS, Array, At, Fields, Layer, Program, Structs
from fedprune.export.c99.streams import band

_NOTHING = -1
_IN_PLACE = (
    "add",
    "lookup",
    "softmax",
    "combine",
    "rsqrt",
    "l2_norm",
)  # kernels that read a value before they write the one in its place
_MOST = 1 << 32  # bytes of a map, so that a byte's name tells its map


class Read(NamedTuple):
    """A row that a kernel reads."""

    map: int
    row: int


def reads(program: Program, layer: Layer, y: int) -> list[Read]:
    """Return which rows a kernel reads for row ``y`` of its output, as said in its C code."""
    fields = layer.fields
    first = layer.inputs[0]
    if layer.kernel in ("conv", "depthwise", "max_pool", "avg_pool"):
        numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
        top, step = y * numbers["stride_y"] - numbers.get("pad_y", 0), numbers.get("dilation_y", 1)
        rows = (top + tap * step for tap in range(numbers["kernel_height"]))
        return [Read(first, row) for row in rows if 0 <= row < program.maps[first].height]
    if layer.kernel in ("linear", "mean"):
        return [Read(first, row) for row in range(program.maps[first].height)]
    if layer.kernel in ("multiply", "combine", "matmul"):
        maps = [each.map for each in (fields["a"], fields["b"]) if isinstance(each, At)]
        return [Read(each, 0 if program.maps[each].height == 1 else y) for each in maps]
    if layer.kernel == "place":
        parts = fields["parts"]
        assert isinstance(parts, Structs)
        found = []
        for part in parts.items:
            source, numbers = part["in"], {name: value for name, value in part.items() if isinstance(value, int)}
            at = y - numbers["to_y"]
            if 0 <= at < numbers["height"]:
                assert isinstance(source, At)
                found.append(Read(source.map, numbers["from_y"] + at * numbers["step_y"]))
        return found
    if layer.kernel == "move":
        every = {*range(program.maps[first].height)}  # read as one row of bytes
        return [Read(first, row) for row in (every if layer.rows == ALL_ROWS else _moved(fields, y))]
    if layer.kernel == "pick":
        rows = fields["rows"]
        assert isinstance(rows, Array)
        return [Read(first, rows.values[y])]
    if layer.kernel == "gather":
        return [Read(first, row) for row in range(program.maps[first].height)]
    if layer.kernel == "reduce":
        over = fields["over"]
        assert isinstance(over, int)
        return [Read(first, row) for row in (range(program.maps[first].height) if over & 1 else [y])]
    if layer.kernel == "bilinear":
        step, start = fields["step_y"], fields["start_y"]
        assert isinstance(step, int)
        assert isinstance(start, int)
        at = max(0, y * step + start) / 1024
        return [Read(first, min(row, program.maps[first].height - 1)) for row in {floor(at), ceil(at)}]
    assert layer.kernel in (*_IN_PLACE, "rescale")
    return [Read(source, y) for source in layer.inputs]


def in_place(program: Program, layer: Layer) -> bool:
    """Return whether a kernel reads each value before it writes the one in its place."""
    sizes = {program.maps[at].row_bytes for at in (*layer.inputs, layer.output)}
    return layer.kernel in _IN_PLACE or (layer.kernel == "rescale" and len(sizes) == 1)


def _moved(fields: Fields, y: int) -> set[int]:
    numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
    outer, inner = divmod(y, numbers["inner_count"])
    start = numbers["row"] + outer * numbers["outer_rows"] + inner * numbers["inner_rows"]
    return {
        start + left * numbers["left_rows"] + right * numbers["right_rows"]
        for left in range(numbers["left_count"])
        for right in range(numbers["right_count"])
    }


class Memory:
    """The arena while a plan runs: each byte names the storage and place in it that were written there last."""

    def __init__(self, program: Program, plan: Plan) -> None:
        self.program, self.plan = program, plan
        self.bytes = np.full(plan.arena_bytes, _NOTHING, np.int64)
        self.made: dict[int, int] = {}
        self.makers = {program.maps[layer.output].storage: at for at, layer in enumerate(program.layers)}

    def run(self) -> None:
        """Follow the schedule; raises AssertionError where a byte is read that is no longer, or not yet, there."""
        for index in self.program.inputs:
            for row in range(self.program.maps[index].height):
                self._write(index, row)
        for stream in self.plan.streams:
            inside = range(stream.first, stream.last + 1)
            self._make(stream.last, self.program.maps[self.program.layers[stream.last].output].height, inside)
        for index in self.program.outputs:
            for row in range(self.program.maps[index].height):
                self._check(Read(index, row), "the end")

    def _place(self, number: int, row: int) -> slice:
        each = self.program.maps[number]
        rows = min(self.plan.rows.get(each.storage, each.height), each.height)
        start = self.plan.offsets[each.storage] + row % rows * each.row_bytes
        assert 0 <= start <= self.plan.arena_bytes - each.row_bytes, f"map {number} leaves the arena"
        return slice(start, start + each.row_bytes)

    def _names(self, number: int, row: int) -> np.ndarray:
        each = self.program.maps[number]
        return each.storage * _MOST + row * each.row_bytes + np.arange(each.row_bytes)

    def _write(self, number: int, row: int) -> None:
        self.bytes[self._place(number, row)] = self._names(number, row)

    def _check(self, read: Read, who: str) -> None:
        there = self.bytes[self._place(*read)]
        assert np.array_equal(there, self._names(*read)), f"{who} reads row {read.row} of map {read.map} too late"

    def _make(self, at: int, until: int, inside: range) -> None:
        layer = self.program.layers[at]
        height = self.program.maps[layer.output].height
        while self.made.get(at, 0) < until:
            start = self.made.get(at, 0)
            stop = min(start + band(self.program, layer), height)
            for source in layer.inputs:
                maker = self.makers.get(self.program.maps[source].storage, -1)
                if maker in inside:
                    rows = self.program.maps[source].height
                    self._make(maker, min(rows, layer.rows.until(stop)), inside)
            self._work(layer, at, start, stop)
            self.made[at] = stop

    def _work(self, layer: Layer, at: int, start: int, stop: int) -> None:
        needed = [reads(self.program, layer, y) for y in range(start, stop)]
        self.bytes[: layer.scratch_bytes] = _NOTHING
        if in_place(self.program, layer):
            for y, rows in zip(range(start, stop), needed, strict=True):
                for read in rows:
                    self._check(read, f"layer {at}")
                    behind = self._place(layer.output, y).start - self._place(*read).start
                    assert not 0 < behind < self.program.maps[read.map].row_bytes, f"layer {at} overtakes itself"
                self._write(layer.output, y)
            return
        for rows in needed:
            for read in rows:
                self._check(read, f"layer {at}")
        for y in range(start, stop):
            self._write(layer.output, y)
        for rows in needed:  # a kernel may write its rows in any order, before or after it reads
            for read in rows:
                self._check(read, f"layer {at}, having written,")


def together(program: Program) -> int:
    """Return the bytes of all maps side by side, each rounded up to 8, and of the largest working memory."""
    sizes = {each.storage: -(-each.size // 8) * 8 for each in program.maps}
    return sum(sizes.values()) + -(-max(layer.scratch_bytes for layer in program.layers) // 8) * 8
