"""Int8 .tflite files by hand, operator after operator."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack

Pair = tuple[int, int]
Grid = tuple[float, int]

_OPTIONS = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "AVERAGE_POOL_2D": "Pool2D"} | {
    "MAX_POOL_2D": "Pool2D", "FULLY_CONNECTED": "FullyConnected", "ADD": "Add", "MUL": "Mul", "SOFTMAX": "Softmax",
    "MEAN": "Reducer", "CONCATENATION": "Concatenation", "STRIDED_SLICE": "StridedSlice", "RESHAPE": "Reshape",
    "LEAKY_RELU": "LeakyRelu", "SQUEEZE": "Squeeze", "TRANSPOSE": "Transpose", "SPLIT": "Split", "SPLIT_V": "SplitV",
    "SLICE": "Slice", "PACK": "Pack", "UNPACK": "Unpack", "GATHER": "Gather", "DEPTH_TO_SPACE": "DepthToSpace",
    "SPACE_TO_DEPTH": "SpaceToDepth", "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor", "SHAPE": "Shape",
    "RESIZE_BILINEAR": "ResizeBilinear", "REVERSE_V2": "ReverseV2", "MIRROR_PAD": "MirrorPad", "TILE": "Tile",
    "BROADCAST_TO": "BroadcastTo", "TRANSPOSE_CONV": "TransposeConv", "SUM": "Reducer", "REDUCE_MAX": "Reducer",
    "REDUCE_MIN": "Reducer",
    "SUB": "Sub", "DIV": "Div", "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum", "SQUARED_DIFFERENCE": "SquaredDifference", "BATCH_MATMUL": "BatchMatMul",
    "L2_NORMALIZATION": "L2Norm", "GELU": "Gelu",
}  # fmt: skip
_SIGMA = 70.0  # of an activation that uses its grid, in steps


class Draft:
    """A model in the making: each method adds an operator and returns the index of its output.

    What is not said is drawn at random: weights, and grids on which the outputs are not all clipped.
    """

    def __init__(self, shape: tuple[int, ...], seed: int = 0, grid: Grid = (0.05, -3)) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: list[FileTensor] = []
        self.operators: list[FileOperator] = []
        self.input = self.activation(shape, grid)

    def tokens(self, count: int, vocabulary: int, size: int) -> int:
        """Make the input int32 tokens, and return the rows of a table that they stand for."""
        self.tensors[self.input] = FileTensor((1, count), np.dtype(np.int32))
        levels, result = self.levels((vocabulary, size), 1), self.activation((1, count, size), (0.05, -3))
        table = self.constant(levels, np.int8, scales=np.array([0.05], np.float32), zero_point=-3)
        return self.add("GATHER", (table, self.input), result, axis=0)

    def shape(self, index: int) -> tuple[int, ...]:
        return self.tensors[index].shape

    def grid(self, index: int) -> Grid:
        scales = self.tensors[index].scales
        assert scales is not None
        return float(scales[0]), self.tensors[index].zero_point

    def activation(self, shape: tuple[int, ...], grid: Grid | None = None, dtype: Any = np.int8) -> int:
        scale, zero = grid or (0.05 * float(np.exp(self.random.uniform(-1, 1))), int(self.random.integers(-90, 60)))
        return self._tensor(FileTensor(shape, np.dtype(dtype), None, np.array([scale], np.float32), zero))

    def constant(self, values: Any, dtype: Any = np.int32, **kind: Any) -> int:
        data = np.asarray(values, dtype)
        return self._tensor(FileTensor(data.shape, data.dtype, data, **kind))

    def add(
        self, code: str, inputs: Sequence[int], output: int, version: int = 1, others: Sequence[int] = (), **values: Any
    ) -> int:
        name = _OPTIONS.get(code)
        options = getattr(schema, f"{name}OptionsT")() if name else None
        for key, value in values.items():
            setattr(options, key, value)
        kind = getattr(schema.BuiltinOptions, f"{name}Options") if name else 0
        number = getattr(schema.BuiltinOperator, code)
        self.operators.append(FileOperator(number, version, tuple(inputs), output, options, kind, "", (*others,)))
        return output

    def file(self, *outputs: int) -> bytes:
        return pack(File(self.tensors, self.operators, (self.input,), outputs))

    def levels(self, shape: tuple[int, ...], density: float) -> np.ndarray:
        kept = self.random.random(shape) < density
        return np.where(kept, self.random.integers(-127, 128, shape), 0).astype(np.int8)

    def conv(
        self,
        source: int,
        filters: int,
        kernel: Pair = (3, 3),
        stride: Pair = (1, 1),
        dilation: Pair = (1, 1),
        *,
        same: bool = True,
        groups: int = 1,
        depthwise: bool = False,
        clip: int = 0,
        density: float = 0.5,
        levels: np.ndarray | None = None,
        factor: float | None = None,
        bias: np.ndarray | None = None,
        grid: Grid | None = None,
    ) -> int:
        """CONV_2D with ``filters``, or DEPTHWISE_CONV_2D with so many for each channel."""
        _, height, width, channels = self.shape(source)
        inner, count = (1, channels * filters) if depthwise else (channels // groups, filters)
        weight = self.levels((count, *kernel, inner), density) if levels is None else levels
        rows, columns = (
            -(-(size if same else size - d * (k - 1)) // s)
            for size, k, s, d in zip((height, width), kernel, stride, dilation, strict=True)
        )
        result = self.activation((1, rows, columns, count), grid)
        constants = self._constants(source, result, weight, 0.5 if depthwise else 1, factor, bias, depthwise)
        values = {"strideH": stride[0], "strideW": stride[1], "dilationHFactor": dilation[0]}
        values |= {"dilationWFactor": dilation[1], "fusedActivationFunction": clip, "padding": int(not same)}
        if depthwise:
            return self.add("DEPTHWISE_CONV_2D", (source, *constants), result, 3, depthMultiplier=filters, **values)
        return self.add("CONV_2D", (source, *constants), result, 6 if groups > 1 else 3, **values)

    def linear(
        self, source: int, filters: int, density: float = 0.5, *, single: bool = False, positions: bool = False,
        **given: Any,
    ) -> int:  # fmt: skip
        """FULLY_CONNECTED, of each position by itself or of all; ``single`` is one scale for all weights."""
        levels = given.pop("levels", None)
        shape = self.shape(source)
        weight = self.levels((filters, shape[-1] if positions else prod(shape)), density) if levels is None else levels
        result = self.activation((*shape[:-1], filters) if positions else (1, len(weight)), given.pop("grid", None))
        if positions:
            given["keepNumDims"] = True
        factor, bias = given.pop("factor", None), given.pop("bias", None)
        constants = self._constants(source, result, weight, 1, factor, bias, False, single)
        return self.add("FULLY_CONNECTED", (source, *constants), result, 4, **given)

    def pool(self, source: int, kind: str, kernel: Pair, stride: Pair, *, same: bool = False, clip: int = 0) -> int:
        _, height, width, channels = self.shape(source)
        sizes = zip((height, width), kernel, stride, strict=True)
        rows, columns = (-(-(size if same else size - k + 1) // s) for size, k, s in sizes)
        result = self.activation((1, rows, columns, channels), self.grid(source))
        values = {"filterHeight": kernel[0], "filterWidth": kernel[1], "strideH": stride[0], "strideW": stride[1]}
        return self.add(kind, (source,), result, 2, **values, padding=int(not same), fusedActivationFunction=clip)

    def both(self, code: str, a: int, b: int, grid: Grid | None = None, clip: int = 0) -> int:
        shape = max(self.shape(a), self.shape(b), key=prod)
        return self.add(code, (a, b), self.activation(shape, grid), 2, fusedActivationFunction=clip)

    def unary(self, code: str, source: int, grid: Grid | None = None, version: int = 2, **values: Any) -> int:
        return self.add(code, (source,), self.activation(self.shape(source), grid), version, **values)

    def reshape(self, source: int, shape: tuple[int, ...], code: str = "RESHAPE") -> int:
        result = self.activation(shape, self.grid(source))
        if code == "SQUEEZE":
            return self.add(code, (source,), result, squeezeDims=[1])
        return self.add(code, (source, self.constant(1 if code == "EXPAND_DIMS" else shape)), result)

    def moved(
        self, code: str, source: int, shape: tuple[int, ...], *constants: Any, version: int = 1, **values: Any
    ) -> int:
        """An operator that moves values to another shape, by int32 constants or options."""
        result = self.activation(shape, self.grid(source))
        return self.add(code, (source, *map(self.constant, constants)), result, version, **values)

    def parts(
        self, code: str, source: int, shapes: Sequence[tuple[int, ...]], *constants: Any, **values: Any
    ) -> list[int]:
        """An operator of several outputs."""
        results = [self.activation(shape, self.grid(source)) for shape in shapes]
        given = [self.constant(each) for each in constants]
        inputs = [*given, source] if code == "SPLIT" else [source, *given]
        self.add(code, inputs, results[0], 1, results[1:], **values)
        return results

    def reduced(self, code: str, source: int, axes: Sequence[int], keep: bool = True, grid: Grid | None = None) -> int:
        shape = self.shape(source)
        ranks = [axis % len(shape) for axis in axes]
        sizes = [1 if at in ranks else size for at, size in enumerate(shape) if keep or at not in ranks]
        return self.add(code, (source, self.constant(axes)), self.activation((*sizes,), grid), 2, keepDims=keep)

    def transposed(
        self, source: int, filters: int, kernel: Pair, stride: Pair, *, same: bool = True, size: Pair | None = None,
        density: float = 0.6, single: bool = False, bias: bool = True, grid: Grid | None = None, **values: Any,
    ) -> int:  # fmt: skip
        """TRANSPOSE_CONV to ``size`` rows and columns, or as many as its window makes."""
        _, height, width, channels = self.shape(source)
        usual = [n * s if same else (n - 1) * s + k for n, k, s in zip((height, width), kernel, stride, strict=True)]
        weight = self.levels((filters, *kernel, channels), density)
        result = self.activation((1, *(size or usual), filters), grid)
        levels, bias_at = self._constants(source, result, weight, prod(stride) ** 0.5, None, None, False, single)
        inputs = (self.constant(self.shape(result)), levels, source, *([bias_at] if bias else []))
        options = {"strideH": stride[0], "strideW": stride[1], "padding": int(not same), **values}
        return self.add("TRANSPOSE_CONV", inputs, result, 3, **options)

    def mean(self, source: int, grid: Grid | None = None, axes: Sequence[int] = (1, 2), keep: bool = True) -> int:
        return self.reduced("MEAN", source, axes, keep, grid)

    def pad(self, source: int, sides: Sequence[Pair], value: int | None = None) -> int:
        shape = tuple(size + sum(side) for size, side in zip(self.shape(source), sides, strict=True))
        scale, zero = self.grid(source)
        result, inputs = self.activation(shape, (scale, zero)), (source, self.constant(sides))
        if value is None:
            return self.add("PAD", inputs, result)
        filler = self.constant(value, np.int8, scales=np.array([scale], np.float32), zero_point=zero)
        return self.add("PADV2", (*inputs, filler), result)

    def concat(self, sources: Sequence[int], axis: int = 3) -> int:
        sizes = [*self.shape(sources[0])]
        sizes[axis] = sum(self.shape(source)[axis] for source in sources)
        return self.add("CONCATENATION", sources, self.activation((*sizes,), self.grid(sources[0])), 2, axis=axis)

    def slice(self, source: int, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> int:
        spans = zip(self.shape(source), start, stop, step, strict=True)
        shape = tuple(len(range(size)[first:last:by]) for size, first, last, by in spans)
        inputs = (source, self.constant(start), self.constant(stop), self.constant(step))
        return self.add("STRIDED_SLICE", inputs, self.activation(shape, self.grid(source)), 2)

    def _tensor(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _constants(
        self, source: int, result: int, weight: np.ndarray, gain: float, factor: float | None,
        bias: np.ndarray | None, depthwise: bool, single: bool = False,
    ) -> Pair:  # fmt: skip
        # weights as (filters, ...); factors that spread the outputs over the grid
        count, kept = len(weight), max(1.0, np.count_nonzero(weight) / len(weight))
        usual = gain * 0.6 * _SIGMA / (_SIGMA * 73 * np.sqrt(kept))
        ends = self.grid(source)[0], self.grid(result)[0]
        spread = 1 if single else np.exp(self.random.uniform(-0.7, 0.7, count))
        scales = np.resize((factor or usual) * spread * ends[1] / ends[0], 1 if single else count).astype(np.float32)
        if bias is None:
            bias = self.random.normal(0, 30 / (factor or usual), count).clip(-(2**22), 2**22)
        stored = np.moveaxis(weight[..., 0], 0, -1)[None] if depthwise else weight
        axis = 3 if depthwise else 0
        return (
            self.constant(stored, np.int8, scales=scales, axis=axis),
            self.constant(np.rint(bias), scales=(np.float32(ends[0]) * scales).astype(np.float32)),
        )


FINER = 256


def wide(draft: Draft, *outputs: int, kept: tuple[int, ...] = ()) -> bytes:
    """Return the file of a draft with activations of int16, 256 times as fine, around zero, but for those ``kept``."""
    for at, tensor in enumerate(draft.tensors):
        if tensor.scales is None or at in kept:
            continue
        if tensor.dtype == np.int8 and tensor.data is None:
            scales = (tensor.scales / FINER).astype(np.float32)
            draft.tensors[at] = replace(tensor, dtype=np.dtype(np.int16), scales=scales, zero_point=0)
        elif tensor.dtype == np.int32 and tensor.data is not None:
            data = tensor.data.astype(np.int64) * FINER
            draft.tensors[at] = replace(tensor, dtype=data.dtype, data=data, scales=tensor.scales / FINER)
    return draft.file(*outputs)
