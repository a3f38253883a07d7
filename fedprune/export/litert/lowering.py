"""A graph as operators of a .tflite file: the file in the making, and how the graph's tensors lie in it.

Moving axes costs nothing here until an operator needs them moved: a reshape or a permutation in the graph is another
way to read the same bytes, and RESHAPE and TRANSPOSE are written where an operator wants its input in another order.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.layout import Dims, Shape
from fedprune.export.litert.numbers import Numbers
from fedprune.graph import (
    FREE,
    RELU,
    RELU6,
    Bounds,
    Constant,
    Graph,
    Operation,
    UnsupportedOperation,
    producers,
)
from fedprune.types import Tensor

# Operator -> version (for floats, for int8): the oldest that has the kernel, so that old runtimes take the file.
_VERSIONS: Mapping[str, tuple[int, int]] = {
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "RESHAPE": (1, 1),
    "HARD_SWISH": (1, 1),
    "QUANTIZE": (1, 1),
    "PRELU": (1, 1),
    "ELU": (1, 1),
    "DEPTH_TO_SPACE": (1, 1),
    "SPACE_TO_DEPTH": (1, 1),
}
_USUAL = (1, 2)


class Seen(NamedTuple):
    """A tensor of the graph as bytes of a tensor in the file."""

    tensor: int
    """The file's, by its place."""
    dims: Dims
    """What those bytes are of the graph's tensor."""
    order: Tensor | None = None
    """Of a vector in an order that no dimensions say: the place of each value."""


class Lowering:
    """A file in the making: tensors and operators so far, and the graph they come from."""

    def __init__(self, graph: Graph, numbers: Numbers) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.graph = graph
        self.numbers = numbers
        self.producers = producers(graph)
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []
        self.subgraphs: list[File] = []
        self.seen: dict[str, Seen] = {}
        self._arranged: dict[tuple[int, Dims, Dims, Shape], int] = {}

    def add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def integers(self, values: Any) -> int:
        data = np.asarray(values, np.int32)
        return self.add(FileTensor(data.shape, data.dtype, data))

    def shape(self, name: str) -> Shape:
        return self.graph.shapes[name]

    def make(self, name: str, shape: Shape, dims: Dims) -> int:
        """Return a new activation of the file that holds a tensor of the graph in such dimensions."""
        index = self.add(self.numbers.activation(name, shape))
        self.seen[name] = Seen(index, dims)
        return index

    def map(self, name: str) -> int:
        """Return a new activation that holds a map channels last."""
        first = self.shape(name)
        return self.make(name, layout.shape(first), layout.plain(first, layout.last(len(first))))

    def read(self, name: str, axes: Sequence[int], shape: Shape = ()) -> int:
        """Return the file's tensor that holds ``name`` with its axes whole in that order, moved there if need be.

        ``shape`` is that of the tensor, the sizes of those axes where it is left out.
        """
        wanted = layout.plain(self.shape(name), axes)
        return self.arranged(name, wanted, shape or tuple(self.shape(name)[axis] for axis in axes))

    def read_map(self, name: str) -> int:
        """Return the file's tensor that holds ``name`` channels last, shaped as an end of the model is."""
        first = self.shape(name)
        return self.read(name, layout.last(len(first)), layout.shape(first))

    def vector(self, name: str) -> tuple[int, Tensor]:
        """Return the file's tensor ``(1, 1, 1, F)`` that holds a tensor of which one axis alone is long, in any order.

        Besides, the place along that axis of each value.
        """
        seen = self.seen[name]
        order = layout.positions(seen.dims) if seen.order is None else seen.order
        return self.shaped(name, seen.tensor, (1, 1, 1, prod(self.shape(name)))), order

    def arranged(self, name: str, wanted: Dims, shape: Shape) -> int:
        """Return the file's tensor of ``shape`` that holds ``name`` in those dimensions."""
        if isinstance(made := self.producers.get(name), Constant):
            values = layout.spread(made.value.value, self.shape(name), wanted)
            return self.constant(name, values.reshape(shape))
        seen = self.seen[name]
        if seen.order is not None:
            raise UnsupportedOperation(f"{name} joins flattened maps, whose values would have to be moved")
        key = (seen.tensor, seen.dims, wanted, shape)
        if key not in self._arranged:
            moved = seen.tensor
            if layout.joined(seen.dims) != layout.joined(wanted):
                moved = self._transposed(name, seen, wanted)
            self._arranged[key] = self.shaped(name, moved, shape)
        return self._arranged[key]

    def constant(self, name: str, values: Tensor) -> int:
        """Return a constant of the file, on the grid of ``name``."""
        return self.add(self.numbers.constant(name, values))

    def onto(self, index: int, name: str) -> int:
        """Return an activation of the file on the grid of ``name``, put there if it is on another."""
        before, after = self.tensors[index], self.numbers.activation(name, self.tensors[index].shape)
        if before.scales is None or after.scales is None:
            return index
        if before.scales[0] == after.scales[0] and before.zero_point == after.zero_point:
            return index
        result = self.add(after)
        self.emit("QUANTIZE", (index,), result, self.options("Quantize"))
        return result

    def shaped(self, name: str, index: int, shape: Shape) -> int:
        """Return the same bytes in another shape."""
        before = self.tensors[index]
        if before.shape == shape:
            return index
        key = (index, (), (), shape)
        if key not in self._arranged:
            result = self.add(self.numbers.activation(name, shape))
            options = self.options("Reshape", newShape=list(shape))
            self.emit("RESHAPE", (index, self.integers(shape)), result, options)
            self._arranged[key] = result
        return self._arranged[key]

    def _transposed(self, name: str, seen: Seen, wanted: Dims) -> int:
        # each dimension that is there or wanted, split until both are the same but for their order
        parts = _split(seen.dims, wanted)
        goal = _split(wanted, seen.dims)
        order = [parts.index(part) for part in goal]
        runs: list[list[int]] = []  # dimensions that stay neighbours move as one
        for place in order:
            if runs and place == runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
        there = sorted(runs)
        before = tuple(prod(parts[place].size for place in run) for run in there)
        permutation = [there.index(run) for run in runs]
        more = max(0, 4 - len(before))
        source = self.shaped(name, seen.tensor, (*[1] * more, *before))
        permutation = [*range(more), *(place + more for place in permutation)]
        shape = tuple(self.tensors[source].shape[place] for place in permutation)
        result = self.add(self.numbers.activation(name, shape))
        self.emit("TRANSPOSE", (source, self.integers(permutation)), result, self.options("Transpose"))
        return result

    def emit(self, code: str, inputs: tuple[int, ...], output: int, options: Any = None, version: int = 0) -> None:
        usual = _VERSIONS.get(code, _USUAL)[self.numbers.integer]
        kind = 0
        if options is not None:
            kind = getattr(self.schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        number = getattr(self.schema.BuiltinOperator, code)
        self.operators.append(FileOperator(number, version or usual, inputs, output, options, kind))

    def options(self, name: str, **values: Any) -> Any:
        made = getattr(self.schema, f"{name}OptionsT")()
        for key, value in values.items():
            setattr(made, key, value)
        return made

    def clipping(self, op: Operation, bounds: Bounds) -> int:
        kinds = self.schema.ActivationFunctionType
        known = {FREE: kinds.NONE, RELU: kinds.RELU, RELU6: kinds.RELU6}
        if bounds not in known:
            raise UnsupportedOperation(f"{type(op).__name__} {op.output} clips to {tuple(bounds)}")
        return int(known[bounds])


def _split(dims: Dims, other: Dims) -> list[layout.Dim]:
    """The dimensions cut wherever the other ones, along the same axis, begin or end."""
    found = list[layout.Dim]()
    for dim in dims:
        cuts = {each.stride for each in other if each.axis == dim.axis}
        cuts |= {each.stride * each.size for each in other if each.axis == dim.axis}
        inside = sorted(cut for cut in cuts if dim.stride < cut < dim.stride * dim.size)
        edges = [dim.stride, *inside, dim.stride * dim.size]
        parts = [layout.Dim(high // low, dim.axis, low) for low, high in pairwise(edges)]
        found += reversed(parts)
    return found
