"""A graph as operators of a .tflite file: the file in the making, with what the rules of each operation share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedprune.export.litert import layout
from fedprune.export.litert.flatbuffer import FileOperator, FileTensor
from fedprune.export.litert.numbers import Numbers
from fedprune.graph import FREE, RELU, RELU6, Bounds, Conv2d, Graph, MaxPool, Operation, UnsupportedOperation, producers

# Operator -> version (for floats, for int8): the oldest that has the kernel, so that old runtimes take the file.
_VERSIONS: Mapping[str, tuple[int, int]] = {
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "RESHAPE": (1, 1),
    "HARD_SWISH": (1, 1),
}
_USUAL = (1, 2)


class Lowering:
    """A file in the making: tensors and operators so far, and the graph they come from."""

    def __init__(self, graph: Graph, numbers: Numbers) -> None:
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self.graph = graph
        self.numbers = numbers
        self.orders = layout.orders(graph)
        self.producers = producers(graph)
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []
        self._indices: dict[str, int] = {}

    def add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def shape_of(self, name: str) -> tuple[int, ...]:
        return layout.shape(self.graph.shapes[name])

    def index(self, name: str) -> int:
        """Return the index of the activation, made at its first mention."""
        if name not in self._indices:
            self._indices[name] = self.add(self.numbers.activation(name, self.shape_of(name)))
        return self._indices[name]

    def alias(self, name: str, other: str) -> None:
        self._indices[name] = self.index(other)

    def integers(self, values: Any) -> int:
        data = np.asarray(values, np.int32)
        return self.add(FileTensor(data.shape, data.dtype, data))

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

    def window(self, op: Conv2d | MaxPool, kernel: tuple[int, int], filler: int | None) -> tuple[int, int]:
        """Return (index of the input, padding kind), after a PAD operator where neither SAME nor VALID says it.

        ``filler`` is the scalar to pad with; None pads zeros.
        """
        source = op.inputs[0]
        size, result = self.graph.shapes[source][2:], self.graph.shapes[op.output][2:]
        needed = layout.reach((size[0], size[1]), (result[0], result[1]), kernel, op.stride, op.padding)
        kinds = self.schema.Padding
        if needed == ((0, 0), (0, 0)):
            return self.index(source), kinds.VALID
        if needed == layout.same((size[0], size[1]), kernel, op.stride):
            return self.index(source), kinds.SAME
        return self.padded(source, ((0, 0), (0, 0), *needed), filler), kinds.VALID

    def padded(self, source: str, padding: tuple[tuple[int, int], ...], filler: int | None, output: str = "") -> int:
        shape = tuple(size + sum(sides) for size, sides in zip(self.graph.shapes[source], padding, strict=True))
        result = self.index(output) if output else self.add(self.numbers.activation(source, layout.shape(shape)))
        last = [(0, 0)] * 4
        for axis, sides in enumerate(padding):
            last[layout.axis(axis, len(padding))] = sides
        if filler is None:
            self.emit("PAD", (self.index(source), self.integers(last)), result, self.options("Pad"))
        else:
            self.emit("PADV2", (self.index(source), self.integers(last), filler), result, self.options("PadV2"))
        return result
