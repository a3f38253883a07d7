"""From the operators of an int8 .tflite file to layers: the maps, and a rule for each operator."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.c99.numbers import Factor, clipping, factor
from fedprune.export.c99.program import WHOLE, At, Fixed, Layer, Map, State
from fedprune.export.litert import Affine
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import ModelError, operator_name
from fedprune.types import Tensor

_MOST_BYTES = 2**24
_MOST_WORK = 2**33

Rule = Callable[["Lowering", FileOperator], None]


class Padded(NamedTuple):
    """A tensor that nobody makes: another, with rows and columns of its zero point before it, and behind it."""

    source: int
    top: int
    left: int


class Lowering:
    """A program in the making."""

    def __init__(self, file: File, counters: Mapping[int, Tensor] | None = None) -> None:
        self.file = file
        self.counters = counters or {}
        """Tensor of integers that follows from constants alone -> its values at each turn of its loop."""
        self.turns = 1
        """How often the layers at hand run."""
        self.maps: list[Map] = []
        self.layers: list[Layer] = []
        self.states: dict[object, State] = {}
        self.padded: dict[int, Padded] = {}
        """Those that a layer of windows reads: it pads by itself."""
        self.where = "the model"
        self.work = 0
        self._maps: dict[int, int] = {}
        self._folded: dict[int, FileTensor] = {}
        self._used = {index for operator in file.operators for index in operator.inputs}.union(file.outputs)
        self.columns = max((self._columns(operator) for operator in file.operators), default=0)
        """The most weights of a filter that is applied at several positions."""

    def _columns(self, operator: FileOperator) -> int:
        positions = math.prod(self.tensor(operator.output).shape[:-1])
        if operator_name(operator) not in ("CONV_2D", "FULLY_CONNECTED") or not self.has(operator, 1) or positions == 1:
            return 0
        return math.prod(self.tensor(operator.inputs[1]).shape[1:])

    def wrong(self, why: str) -> ModelError:
        """Return the error of the operator at hand."""
        return ModelError(f"{self.where} {why}")

    def emit(self, layer: Layer) -> None:
        self.work += self.turns * _work(self.maps[layer.output], layer)
        if self.work > _MOST_WORK:
            raise self.wrong(f"brings the multiply-adds to {self.work}; at most {_MOST_WORK} will do")
        self.layers.append(layer)

    def tensor(self, index: int) -> FileTensor:
        return self._folded.get(index) or self.file.tensors[index]

    def map(self, index: int, storage: int | None = None, *, wide: bool = False) -> int:
        """Return the map of an activation, made at its first mention, in the bytes of the map ``storage`` if given.

        With ``wide`` it may be one of int16 or int32, of two or four channels a value.
        """
        tensor = self.tensor(index)
        if tensor.dtype not in ((np.int8, np.int16, np.int32) if wide else (np.int8,)):
            raise self.wrong(f"works on {tensor.dtype.name}; no C kernel does that, and tensor {index} asks for it")
        if index not in self._maps:
            if tensor.data is not None:
                raise self.wrong("reads a constant where C kernels read an activation")
            shape = cells(tensor.shape, tensor.dtype.itemsize)
            if shape is None:
                raise self.wrong(f"has a tensor of shape {tensor.shape}; at most five axes of {WHOLE} will do")
            if (size := math.prod(shape)) > _MOST_BYTES:
                raise self.wrong(f"has a tensor of {size} bytes; at most {_MOST_BYTES} will do")
            where = len(self.maps) if storage is None else self.maps[storage].storage
            self._maps[index] = self._numbered(Map(*shape, where))
        return self._maps[index]

    def vector(self, number: int) -> int:
        """Return a map of the same bytes with a single position."""
        return self.view(number, 1, 1, self.maps[number].size)

    def view(self, number: int, height: int, width: int, channels: int) -> int:
        """Return a map of the same bytes in another shape."""
        return self._numbered(Map(height, width, channels, self.maps[number].storage))

    def between(self, height: int, width: int, channels: int) -> int:
        """Return a new map, one that no tensor of the file is."""
        if max(height, width, channels) > WHOLE or height * width * channels > _MOST_BYTES:
            raise self.wrong(f"takes a map of {height} x {width} x {channels} bytes in between, which is too large")
        return self._numbered(Map(height, width, channels, len(self.maps)))

    def used(self, index: int) -> bool:
        """Whether somebody reads a tensor."""
        return index in self._used

    def fold(self, index: int, values: Tensor) -> None:
        """Make a tensor of the file constant."""
        tensor = self.tensor(index)
        self._folded[index] = replace(tensor, data=values.astype(tensor.dtype).reshape(tensor.shape))

    def _numbered(self, found: Map) -> int:
        # the same bytes in the same shape are one map, whatever the file calls them: who makes it is told by its number
        if found not in self.maps:
            self.maps.append(found)
        return self.maps.index(found)

    def ends(self, operator: FileOperator, inputs: int = 1, *, wide: bool = False) -> tuple[int, ...]:
        """Return the maps that an operator's first ``inputs`` inputs and its output are; ``wide`` as in `map`."""
        if not all(self.has(operator, at) for at in range(inputs)):
            raise self.wrong(f"has less than {inputs} input(s)")
        return tuple(self.map(index, wide=wide) for index in (*operator.inputs[:inputs], operator.output))

    def operand(self, operator: FileOperator, position: int) -> At | Fixed:
        """Return an input that is an activation or a constant, int8 or int16, of any shape that a map can have."""
        if not self.has(operator, position):
            raise self.wrong(f"has less than {position + 1} input(s)")
        tensor = self.tensor(index := operator.inputs[position])
        self.wide(index)
        if tensor.data is None:
            return At(self.map(index, wide=True))
        shape = cells(tensor.shape)
        if shape is None:
            raise self.wrong(f"has a constant input {position} of shape {tensor.shape}")
        return Fixed(shape, f"{tensor.dtype.name}_t", [int(value) for value in tensor.data.reshape(-1)])

    def wide(self, index: int) -> bool:
        """Whether a tensor is of int16; one that is not of int8 either is refused."""
        dtype = self.tensor(index).dtype
        if dtype not in (np.int8, np.int16):
            raise self.wrong(f"works on {dtype.name}; no C kernel does that, and tensor {index} asks for it")
        return bool(dtype == np.int16)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return (height, width, channels) of a tensor, counted in values."""
        shape = cells(self.tensor(index).shape)
        if shape is None:
            raise self.wrong(f"has a tensor of shape {self.tensor(index).shape}")
        return shape

    def grid(self, index: int) -> Affine:
        tensor = self.tensor(index)
        if tensor.scales is None or len(tensor.scales) != 1 or not -128 <= tensor.zero_point <= 127:
            raise self.wrong("has an activation without one scale and zero point")
        scale = float(tensor.scales[0])
        if not (np.isfinite(scale) and scale > 0):
            raise self.wrong(f"has an activation of scale {scale}")
        return Affine(scale, tensor.zero_point)

    def constant(self, operator: FileOperator, position: int, dtype: Any = np.int8) -> Tensor:
        """Return the constant that an operator reads at a position."""
        data = self.tensor(operator.inputs[position]).data if self.has(operator, position) else None
        if data is None or data.dtype != dtype:
            raise self.wrong(f"has no constant {np.dtype(dtype).name} input {position}")
        return data

    def has(self, operator: FileOperator, position: int) -> bool:
        return len(operator.inputs) > position and operator.inputs[position] >= 0

    def options(self, operator: FileOperator) -> Any:
        if operator.options is None:
            raise self.wrong("has no options")
        return operator.options

    def factor(self, real: float) -> Factor:
        """Return a factor that scales make, in fixed point."""
        if not real < _LARGEST:
            raise self.wrong(f"has scales that make a factor of {real:g}; less than {_LARGEST:g} will do")
        return factor(real)

    def clipping(self, operator: FileOperator) -> tuple[int, int]:
        """Return the range that an operator's fused activation lets through."""
        try:
            activation = self.options(operator).fusedActivationFunction
            return clipping(activation, self.grid(operator.output), self.limits(operator.output))
        except ValueError as error:
            raise self.wrong(f"has {error}") from None

    def limits(self, index: int) -> tuple[int, int]:
        """Return the least and the most that the type of an activation holds."""
        limits = np.iinfo(self.tensor(index).dtype)
        return int(limits.min), int(limits.max)

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis of a tensor of ``rank`` axes, those counted from the end as they are from the start."""
        if not -rank <= axis < rank:
            raise self.wrong(f"names axis {axis} of a tensor of {rank} axes")
        return axis % rank

    def within(self, what: str, value: int, most: int) -> int:
        if not 0 <= value <= most:
            raise self.wrong(f"has a {what} of {value}; at most {most} will do")
        return value


def _work(result: Map, layer: Layer) -> int:
    """Multiply-adds of a layer, or comparisons, about."""
    if layer.filters is not None:
        return result.height * result.width * layer.filters.levels.size
    taps = [value for name in ("kernel_height", "kernel_width") if isinstance(value := layer.fields.get(name), int)]
    return result.size * math.prod(taps)


_LARGEST = 2.0**30  # kernels shift 32-bit sums to the left by its exponent


def cells(shape: tuple[int, ...], item_bytes: int = 1) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of a tensor, channels in bytes; None if there are too many.

    Axes are added in front where there are less than three; the first two of four or five are one, and the last two of
    five.
    """
    if len(shape) > 5:
        return None
    last = shape if len(shape) < 5 else (*shape[:3], shape[3] * shape[4])
    first, height, width, channels = (1,) * (4 - len(last)) + last
    found = first * height, width, channels * item_bytes
    return None if max(found) > WHOLE else found
