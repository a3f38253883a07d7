"""Operations that move values and compute nothing new: reshapes, slices, permutations, shuffles, resizing."""

from dataclasses import dataclass

from fedprune.graph.operations import Operation, Pair


@dataclass(frozen=True, eq=False)
class Concat(Operation):
    """The inputs one after the other along ``axis``."""

    axis: int


@dataclass(frozen=True, eq=False)
class Pad(Operation):
    """Zeros added (before, after) along each axis, the batch's first."""

    padding: tuple[Pair, ...]


@dataclass(frozen=True, eq=False)
class Slice(Operation):
    """``x[start:stop:step]`` along ``axis``."""

    axis: int
    start: int
    stop: int
    step: int


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """The same values, in order, in the shape of the output; flatten is one."""


@dataclass(frozen=True, eq=False)
class Permute(Operation):
    """The axes in another order: axis ``i`` of the output is axis ``order[i]`` of the input."""

    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PixelShuffle(Operation):
    """``(1, C r^2, H, W)`` to ``(1, C, H r, W r)``: each block of ``factor`` squared channels becomes a square."""

    factor: int


@dataclass(frozen=True, eq=False)
class PixelUnshuffle(Operation):
    """``(1, C, H r, W r)`` to ``(1, C r^2, H, W)``, the inverse of `PixelShuffle`."""

    factor: int


@dataclass(frozen=True, eq=False)
class Resize(Operation):
    """A map of other rows and columns: the nearest value (rounded down), or bilinear between the nearest four."""

    bilinear: bool
    align_corners: bool
    """Whether the corners' centres stay where they are; else the map's edges do."""
