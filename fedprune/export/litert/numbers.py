"""The two kinds of numbers a file may hold: how floats and how int8 store activations, weights and biases."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from fedprune.export.litert.flatbuffer import FileTensor
from fedprune.export.litert.quantise import Affine, Ranges, grids, to_int8, weight_scales, wide
from fedprune.graph import Embedding, Graph
from fedprune.types import FloatTensor


class Constants(NamedTuple):
    """Weight and bias of one operator, as the file holds them."""

    weight: FileTensor
    bias: FileTensor


class Numbers(Protocol):
    """How a file stores a graph's numbers."""

    integer: bool
    """Whether operators need their int8 versions."""

    def activation(self, name: str, shape: tuple[int, ...]) -> FileTensor:
        """Return the tensor of an activation."""
        ...

    def constants(
        self, weight: FloatTensor, bias: FloatTensor, channel_axis: int, source: str, result: str
    ) -> Constants:
        """Return weight and bias of an operator from ``source`` to ``result``, with a scale for each output channel."""
        ...

    def constant(self, name: str, values: FloatTensor) -> FileTensor:
        """Return a constant operand, stored as the activation ``name`` is."""
        ...

    def slopes(self, values: FloatTensor) -> FileTensor:
        """Return a constant operand on a grid of its own."""
        ...

    def least(self, name: str) -> FileTensor:
        """Return a scalar no larger than any value of the activation."""
        ...

    def is_wide(self, name: str) -> bool:
        """Return whether an activation has 16 bits."""
        ...


@dataclass(frozen=True)
class Floats:
    """Everything in float32."""

    integer = False

    def activation(self, name: str, shape: tuple[int, ...]) -> FileTensor:
        return FileTensor(shape, np.dtype(np.float32))

    def constants(
        self, weight: FloatTensor, bias: FloatTensor, channel_axis: int, source: str, result: str
    ) -> Constants:
        single = np.dtype(np.float32)
        return Constants(FileTensor(weight.shape, single, weight), FileTensor(bias.shape, single, bias))

    def constant(self, name: str, values: FloatTensor) -> FileTensor:
        return FileTensor(values.shape, np.dtype(np.float32), values)

    def slopes(self, values: FloatTensor) -> FileTensor:
        return FileTensor(values.shape, np.dtype(np.float32), values)

    def least(self, name: str) -> FileTensor:
        return FileTensor((), np.dtype(np.float32), np.array(np.finfo(np.float32).min))

    def is_wide(self, name: str) -> bool:
        return False


@dataclass(frozen=True)
class Integers:
    """Int8 activations on their grids, symmetric int8 weights, int32 biases."""

    grids: Mapping[str, Affine]
    wide: Set[str] = field(default_factory=frozenset)
    """Activations of 16 bits, whose grids are symmetric."""
    integer = True

    def activation(self, name: str, shape: tuple[int, ...]) -> FileTensor:
        grid, dtype = self.grids[name], np.int16 if name in self.wide else np.int8
        return FileTensor(shape, np.dtype(dtype), None, np.array([grid.scale]), grid.zero_point)

    def constant(self, name: str, values: FloatTensor) -> FileTensor:
        if name not in self.wide:
            return replace(self.activation(name, values.shape), data=to_int8(values, self.grids[name]))
        return wide_constant(values, self.grids[name].scale)

    def slopes(self, values: FloatTensor) -> FileTensor:
        scale = float(np.abs(values).max()) / 127 or 1.0
        levels = np.rint(values / scale).astype(np.int8)
        return FileTensor(values.shape, np.dtype(np.int8), levels, np.array([scale]))

    def is_wide(self, name: str) -> bool:
        return name in self.wide

    def constants(
        self, weight: FloatTensor, bias: FloatTensor, channel_axis: int, source: str, result: str
    ) -> Constants:
        ends = (self.grids[source], self.grids[result])
        rows = np.moveaxis(weight, channel_axis, 0)
        scales = weight_scales(rows.reshape(len(rows), -1), bias, *ends)
        bias_scales = (np.float32(ends[0].scale) * scales).astype(np.float32)
        spread = scales.reshape(-1, *[1] * (weight.ndim - 1 - channel_axis))
        levels = np.clip(np.rint(weight / spread), -127, 127)
        whole = np.rint(bias.astype(np.float64) / bias_scales)
        return Constants(
            FileTensor(weight.shape, np.dtype(np.int8), levels, scales, axis=channel_axis),
            FileTensor(bias.shape, np.dtype(np.int32), whole, bias_scales),
        )

    def least(self, name: str) -> FileTensor:
        grid = self.grids[name]
        return FileTensor((), np.dtype(np.int8), np.array(-128), np.array([grid.scale]), grid.zero_point)


def wide_constant(values: FloatTensor, scale: float) -> FileTensor:
    """Return a constant of 16 bits on a symmetric grid."""
    levels = np.clip(np.rint(values / scale), -32767, 32767).astype(np.int16)
    return FileTensor(values.shape, np.dtype(np.int16), levels, np.array([scale]))


def integers(graph: Graph, ranges: Ranges) -> Integers:
    """Return the int8 numbers of a graph whose tensors have such ranges. Raises as `quantise.grids`."""
    return Integers(grids(graph, ranges), wide(graph))


def takes_tokens(graph: Graph) -> bool:
    """Return whether a graph's input is of integers, which name rows of embeddings."""
    return any(isinstance(op, Embedding) and graph.input in op.inputs for op in graph.operations)
