"""An int8 model as layers of C kernels: every field of their structs, what they read, and which rows they need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fedprune.export.litert import Affine
from fedprune.types import Tensor

WHOLE = 0x7FFF
"""A reach that no map's height passes: the layer reads all rows."""


class Map(NamedTuple):
    """The shape of an activation, channels last, and where it lies: maps of one storage are the same bytes.

    Channels are counted in bytes: twice as many of int16.
    """

    height: int
    width: int
    channels: int
    storage: int

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return self.width * self.channels

    @property
    def size(self) -> int:
        """Bytes of the whole map."""
        return self.height * self.row_bytes


class Rows(NamedTuple):
    """Which rows a layer reads for rows from..until: ``from * stride / per + first .. until * stride / per + reach``.

    The first quotient is rounded down, the second up.
    """

    stride: int
    first: int
    reach: int
    per: int = 1

    def since(self, start: int) -> int:
        """Return the first row that is read for rows from ``start`` on; it may lie before the map."""
        return start * self.stride // self.per + self.first

    def until(self, stop: int) -> int:
        """Return the row after the last that is read for rows before ``stop``; it may lie behind the map."""
        return -(-stop * self.stride // self.per) + self.reach


SAME_ROWS = Rows(1, 0, 0)
ALL_ROWS = Rows(0, 0, WHOLE)


class At(NamedTuple):
    """In a field: the address of a map."""

    map: int


class Array(NamedTuple):
    """In a field: a constant array of numbers, of one C type."""

    kind: str
    values: Sequence[int]


class Structs(NamedTuple):
    """In a field: a constant array of structs of one name."""

    name: str
    items: "Sequence[Fields]"


class Fixed(NamedTuple):
    """In a field: a map that is constant, its values channels last, of one C type, int8_t or int16_t."""

    shape: tuple[int, int, int]
    kind: str
    values: Sequence[int]


class Name(NamedTuple):
    """In a field: a function of the C text."""

    text: str


Fields = Mapping[str, "int | At | Array | Structs | Fixed | Name"]


class Filters(NamedTuple):
    """Weights of a convolution or a fully connected layer, (filters, weights), int8, still to be encoded."""

    levels: Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """One call of a kernel."""

    kernel: str
    """The name of its file, its function and its struct."""
    inputs: tuple[int, ...]
    output: int
    fields: Fields
    rows: Rows
    scratch_bytes: int = 0
    filters: Filters | None = None
    in_place: bool = False
    """Whether each value is read before the one in its place is written, and never again."""
    helpers: tuple[str, ...] = field(default=())
    """Kernel files that it needs besides its own."""


class Loop(NamedTuple):
    """Consecutive layers that run several times, one after the other and again."""

    first: int
    last: int
    turns: int


class State(NamedTuple):
    """A map that keeps its values from run to run, and the bytes that it begins with."""

    map: int
    start: bytes


@dataclass(frozen=True, eq=False)
class Program:
    """A model: its maps, its layers in running order, which maps it reads and gives, and their grids.

    A layer of a loop may write a map that one before the loop has made.
    """

    maps: Sequence[Map]
    layers: Sequence[Layer]
    inputs: Sequence[int]
    outputs: Sequence[int]
    input_grids: Sequence[Affine | None]
    """None for an input of int32: tokens."""
    output_grids: Sequence[Affine]
    loops: Sequence[Loop] = ()
    states: Sequence[State] = ()
    wide: frozenset[int] = frozenset()
    """Those of its inputs and outputs that are int16."""

    def kind(self, index: int) -> str:
        """Return the C type of an input's or an output's numbers, but for tokens."""
        return "int16_t" if index in self.wide else "int8_t"

    @property
    def kept(self) -> frozenset[int]:
        """The storages of what is kept from run to run."""
        return frozenset(self.maps[each.map].storage for each in self.states)

    @property
    def taken(self) -> frozenset[int]:
        """The storages that are there before a run: of the inputs, and what is kept."""
        return self.kept.union(self.maps[index].storage for index in self.inputs)

    @property
    def given(self) -> frozenset[int]:
        """The storages that are there after a run: of the outputs, and what is kept."""
        return self.kept.union(self.maps[index].storage for index in self.outputs)
