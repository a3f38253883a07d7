"""Channels of an int8 file that no input moves, or that nobody reads, removed bit for bit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedprune.export.c99.elementwise import table
from fedprune.export.c99.numbers import clipping, factor, scaled
from fedprune.export.c99.reductions import mean_of_equal
from fedprune.export.litert import Affine
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_CURVES = ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "ELU", "GELU", "ABS")
_POOLS = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_PASSING = ("depthwise", "curve", "pool", "pad", "mean")
"""Each channel by itself."""
_LOW, _HIGH = -128, 127
Mask = NDArray[np.bool_]


class _Range(NamedTuple):
    """The least and the most that each value along the last axis of a tensor takes, for any input."""

    low: Tensor
    high: Tensor


class Compacted(NamedTuple):
    """A file that computes the same, and how many channels it has less."""

    file: File
    removed: int


def compacted(file: File) -> Compacted:
    """Return an int8 file without channels that are constant for every input, or that only zeros read.

    What a constant channel adds to the next layer goes into that one's biases. The bits are those of TensorFlow Lite
    Micro. A file in which nothing is to be removed is returned as it is.
    """
    if file.subgraphs or len({index for operator in file.operators for index in operator.outputs}) < sum(
        len(operator.outputs) for operator in file.operators
    ):
        return Compacted(file, 0)
    found = _Compacting(file)
    removed = sum(int((~kept).sum()) for index, kept in found.kept.items() if index in found.layers)
    try:
        return Compacted(found.done(), removed) if removed else Compacted(file, 0)
    except OverflowError:  # of a bias
        return Compacted(file, 0)


class _Compacting:
    def __init__(self, file: File) -> None:
        self.file = file
        self.tensors = list(file.tensors)
        self.layers = {
            operator.output for operator in file.operators if operator_name(operator) in ("CONV_2D", "FULLY_CONNECTED")
        }
        self.kinds = [self._kind(operator) for operator in file.operators]
        self.ranges = self._ranges()
        self.kept = self._kept()

    def _kind(self, operator: FileOperator) -> str:
        """What a channel goes through: ``weights``, ``depthwise``, ``flat``, one of `_PASSING`; "" for others."""
        name, tensors = operator_name(operator), self.file.tensors
        if min(operator.inputs[:2], default=-1) < 0:
            return ""
        ends = [tensors[index] for index in (*operator.inputs[:1], *operator.outputs) if index >= 0]
        if len(ends) != 2 or any(
            each.dtype != np.int8 or each.data is not None or each.scales is None for each in ends
        ):
            return ""
        source, result = ends
        if min(len(source.shape), len(result.shape)) < 2 or _grid(source).scale <= 0 or _grid(result).scale <= 0:
            return ""
        if name in _CURVES and len(operator.inputs) == 1 and source.shape == result.shape:
            return "curve"
        same = source.shape[-1] == result.shape[-1]
        if name in _POOLS and same and len(source.shape) == 4 and _grid(source) == _grid(result):
            return "pool"
        if name == "PAD" and same and len(operator.inputs) == 2 and _grid(source) == _grid(result):
            sides = self.file.tensors[operator.inputs[1]].data
            return "pad" if sides is not None and not sides.reshape(-1)[-2:].any() else ""
        if name == "MEAN" and same and len(source.shape) == 4 and len(operator.inputs) == 2:
            axes = self.file.tensors[operator.inputs[1]].data
            return "mean" if axes is not None and {*(axes.reshape(-1) % 4).tolist()} == {1, 2} else ""
        if name == "RESHAPE" and len(source.shape) == 4 and result.shape == (1, int(np.prod(source.shape))):
            return "flat"
        if name not in _WEIGHTED or not self._is_sound(operator, name, source, result):
            return ""
        return "depthwise" if name == "DEPTHWISE_CONV_2D" else "weights"

    def _is_sound(self, operator: FileOperator, name: str, source: FileTensor, result: FileTensor) -> bool:
        weight = self.file.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
        bias = self.file.tensors[operator.inputs[2]] if _has_bias(operator) else None
        if weight is None or weight.data is None or weight.scales is None:
            return False
        if weight.dtype != np.int8 or weight.zero_point:
            return False
        if bias is not None and (bias.data is None or bias.dtype != np.int32):
            return False
        if weight.sparsity is not None or operator.options is None or operator.options.fusedActivationFunction > 3:
            return False
        axes = 2 if name == "FULLY_CONNECTED" else 4
        if len(weight.shape) != axes or len(source.shape) < 2 or (axes == 4 and len(source.shape) != 4):
            return False
        by_channel = name == "DEPTHWISE_CONV_2D"
        count = weight.shape[3 if by_channel else 0]
        reads = weight.shape[-1] == source.shape[-1] and (weight.shape[0] == 1 or not by_channel)
        return reads and result.shape[-1] == count and len(weight.scales) in (1, count)

    def _constants(self, operator: FileOperator) -> tuple[Tensor, Tensor]:
        """The weights (filters, taps, channels), and the biases, in int64."""
        data, name = self.file.tensors[operator.inputs[1]].data, operator_name(operator)
        assert data is not None
        weight = data.astype(np.int64)
        if name == "DEPTHWISE_CONV_2D":
            weight = np.moveaxis(weight[0], -1, 0).reshape(weight.shape[-1], -1, 1)
        else:
            weight = weight.reshape(weight.shape[0], -1, weight.shape[-1])
        bias = self.file.tensors[operator.inputs[2]].data if _has_bias(operator) else None
        return weight, np.zeros(len(weight), np.int64) if bias is None else bias.reshape(-1).astype(np.int64)

    def _range(self, index: int) -> _Range:
        shape = self.file.tensors[index].shape
        size = shape[-1] if shape else 1
        return _Range(np.full(size, _LOW), np.full(size, _HIGH))

    def _ranges(self) -> Mapping[int, _Range]:
        found = {index: self._range(index) for index in self.file.inputs}
        for operator, kind in zip(self.file.operators, self.kinds, strict=True):
            source = found.get(operator.inputs[0]) if operator.inputs else None
            for index in operator.outputs:
                found[index] = self._range(index)
            if source is None or not kind:
                continue
            if kind == "curve":
                found[operator.output] = self._curved(operator, source)
            elif kind == "pool":
                low, high = self._clips(operator)
                found[operator.output] = _Range(*(each.clip(low, high) for each in source))
            elif kind == "pad":
                zero = self.file.tensors[operator.output].zero_point
                found[operator.output] = _Range(np.minimum(source.low, zero), np.maximum(source.high, zero))
            elif kind == "flat":
                times = self.file.tensors[operator.output].shape[-1] // len(source.low)
                found[operator.output] = _Range(*(np.tile(each, times) for each in source))
            elif kind == "mean":
                found[operator.output] = self._averaged(operator, source)
            else:
                found[operator.output] = self._weighted(operator, source)
        return found

    def _clips(self, operator: FileOperator) -> tuple[int, int]:
        return clipping(operator.options.fusedActivationFunction, _grid(self.file.tensors[operator.output]))

    def _curved(self, operator: FileOperator, source: _Range) -> _Range:
        try:
            values = np.array(table(self.file.tensors.__getitem__, operator))
        except (RuntimeError, ValueError):
            return self._range(operator.output)
        parts = [values[low - _LOW : high - _LOW + 1] for low, high in zip(*source, strict=True)]
        return _Range(np.array([each.min() for each in parts]), np.array([each.max() for each in parts]))

    def _averaged(self, operator: FileOperator, source: _Range) -> _Range:
        before, after = (self.file.tensors[index] for index in (operator.inputs[0], operator.output))
        count = before.shape[1] * before.shape[2]
        if max(count, _grid(before).scale / _grid(after).scale) >= 2**11:  # sums that could leave 32 bits
            return self._range(operator.output)
        return _Range(*(mean_of_equal(each, count, _grid(before), _grid(after)) for each in source))

    def _weighted(self, operator: FileOperator, source: _Range) -> _Range:
        tensors = self.file.tensors
        weight, bias = self._constants(operator)
        before, after = (_grid(tensors[index]) for index in (operator.inputs[0], operator.output))
        low, high = (each.astype(np.int64) - before.zero_point for each in source)
        if self._pads(operator):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        if operator_name(operator) == "DEPTHWISE_CONV_2D":
            low, high = low[:, None, None], high[:, None, None]
        ends = weight * low, weight * high
        sums = [bias + limit(*ends).sum((1, 2)) for limit in (np.minimum, np.maximum)]
        scales = np.resize(np.asarray(tensors[operator.inputs[1]].scales, np.float64), len(weight))
        if max(np.abs(each).max() for each in sums) >= 2**31 or not (scales >= 0).all():
            return self._range(operator.output)
        least, most = self._clips(operator)
        real = before.scale * scales / after.scale
        if not (real < 1).all():  # as the kernels shift to the left before they round
            return self._range(operator.output)
        factors = [factor(float(each)) for each in real]
        levels = (
            np.array([int(scaled(value, by)) for value, by in zip(each, factors, strict=True)]) + after.zero_point
            for each in sums
        )
        return _Range(*(each.clip(least, most) for each in levels))

    def _pads(self, operator: FileOperator) -> bool:
        return operator_name(operator) != "FULLY_CONNECTED" and operator.options.padding == 0

    def _foldable(self, operator: FileOperator) -> Mask:
        """Channels of the input whose share is the same in every sum."""
        low, high = self.ranges[operator.inputs[0]]
        constant: Mask = low == high
        if self._pads(operator) and self._constants(operator)[0].shape[1] > 1:
            constant = constant & (low == self.file.tensors[operator.inputs[0]].zero_point)
        return constant

    def _kept(self) -> dict[int, Mask]:
        """The channels of each tensor that have to stay."""
        needed: dict[int, Mask] = {index: np.zeros(len(each.low), bool) for index, each in self.ranges.items()}
        for index in {*self.file.outputs, *self.file.inputs} & needed.keys():
            needed[index][:] = True
        for operator, kind in reversed([*zip(self.file.operators, self.kinds, strict=True)]):
            for index in operator.inputs if not kind else ():
                if index in needed:
                    needed[index][:] = True
            for index in operator.outputs if not kind else ():
                needed[index][:] = True
            if not kind:
                continue
            own, source = needed[operator.output], operator.inputs[0]
            if not own.any():
                own[0] = True
            if kind == "weights":
                weight = self._constants(operator)[0][own]
                needed[source] |= weight.any(axis=(0, 1)) & ~self._foldable(operator)
            elif kind == "flat":
                needed[source] |= own.reshape(-1, len(needed[source])).any(0)
            else:
                needed[source] |= own
            if not needed[source].any():
                needed[source][0] = True
        for operator, kind in zip(self.file.operators, self.kinds, strict=True):
            if kind in _PASSING:
                needed[operator.output] = needed[operator.inputs[0]]
            elif kind == "flat":
                whole = needed[operator.output]
                needed[operator.output] = np.tile(
                    needed[operator.inputs[0]], len(whole) // len(needed[operator.inputs[0]])
                )
        return needed

    def done(self) -> File:
        operators = list[FileOperator]()
        for operator, kind in zip(self.file.operators, self.kinds, strict=True):
            if kind in ("weights", "depthwise"):
                operator = self._sliced(operator, self.kept[operator.inputs[0]], self.kept[operator.output])
            elif kind == "flat":
                shape = np.array([1, int(self.kept[operator.output].sum())], np.int32)
                at = self._add(FileTensor(shape.shape, shape.dtype, shape))
                operator = replace(operator, inputs=(operator.inputs[0], at), options=None, options_type=0)
            operators.append(operator)
        for index, kept in self.kept.items():
            tensor = self.tensors[index]
            if not kept.all():
                self.tensors[index] = replace(tensor, shape=(*tensor.shape[:-1], int(kept.sum())))
        return replace(self.file, tensors=self.tensors, operators=operators)

    def _add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _sliced(self, operator: FileOperator, source: Mask, own: Mask) -> FileOperator:
        if source.all() and own.all():
            return operator
        name, old = operator_name(operator), self.file.tensors[operator.inputs[1]]
        weight, bias = self._constants(operator)
        values = self.ranges[operator.inputs[0]].low - self.file.tensors[operator.inputs[0]].zero_point
        assert old.data is not None
        assert old.scales is not None
        if name == "DEPTHWISE_CONV_2D":
            data = old.data[..., own]
        else:
            fixed = (~source) & self._foldable(operator)
            bias = bias + (weight.sum(1) * np.where(fixed, values, 0)).sum(1)
            data = old.data[own][..., source]
        if np.abs(bias[own]).max(initial=0) >= 2**31:
            raise OverflowError
        scales = old.scales if len(old.scales) == 1 else old.scales[own]
        made = self._add(replace(old, shape=data.shape, data=data, scales=scales))
        steps = (np.float32(_grid(self.file.tensors[operator.inputs[0]]).scale) * scales).astype(np.float32)
        stored = FileTensor((int(own.sum()),), np.dtype(np.int32), bias[own].astype(np.int32), steps)
        return replace(operator, inputs=(operator.inputs[0], made, self._add(stored)))


def _has_bias(operator: FileOperator) -> bool:
    return len(operator.inputs) > 2 and operator.inputs[2] >= 0


def _grid(tensor: FileTensor) -> Affine:
    assert tensor.scales is not None
    return Affine(float(tensor.scales[0]), tensor.zero_point)
