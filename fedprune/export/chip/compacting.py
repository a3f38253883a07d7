"""Channels of an int8 file that no input moves, or that nobody reads, removed bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedprune.export.c99.elementwise import table
from fedprune.export.c99.numbers import clipping, factor, scaled
from fedprune.export.c99.reductions import mean_of_equal
from fedprune.export.chip.channels import PASSING, added, constants, grid, kind_of
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_LOW, _HIGH = -128, 127
_MOST_CHANNELS = 2**21  # of all maps, so that what is known of each takes little memory
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
    made = [index for operator in file.operators for index in operator.outputs]
    channels = sum(size for index in (*made, *file.inputs) for size in file.tensors[index].shape[-1:])
    if file.subgraphs or len({*made}) < len(made) or channels > _MOST_CHANNELS:
        return Compacted(file, 0)
    found = _Compacting(file)
    if not found.constant and all(kept.all() for index, kept in found.kept.items() if index in found.layers):
        return Compacted(file, 0)
    try:
        done = found.done()
    except OverflowError:  # of a bias
        return Compacted(file, 0)
    there = {operator.output for operator in done.operators}
    layers = ((index in there, found.kept[index]) for index in found.layers)
    return Compacted(done, sum(int((~kept).sum()) if stays else len(kept) for stays, kept in layers))


class _Compacting:
    def __init__(self, file: File) -> None:
        self.file = file
        self.tensors = list(file.tensors)
        self.layers = {
            operator.output for operator in file.operators if operator_name(operator) in ("CONV_2D", "FULLY_CONNECTED")
        }
        self.kinds = [kind_of(self.file, operator) for operator in file.operators]
        self.ranges = self._ranges()
        self.kept = self._kept()
        self.constant = self._constant()

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
            if kind == "add":
                found[operator.output] = self._added(operator, source, found[operator.inputs[1]])
            elif kind == "curve":
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

    def _added(self, operator: FileOperator, first: _Range, second: _Range) -> _Range:
        return _Range(*(added(self.file, operator, *each) for each in zip(first, second, strict=True)))

    def _clips(self, operator: FileOperator) -> tuple[int, int]:
        return clipping(operator.options.fusedActivationFunction, grid(self.file.tensors[operator.output]))

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
        if max(count, grid(before).scale / grid(after).scale) >= 2**11:  # sums that could leave 32 bits
            return self._range(operator.output)
        return _Range(*(mean_of_equal(each, count, grid(before), grid(after)) for each in source))

    def _weighted(self, operator: FileOperator, source: _Range) -> _Range:
        tensors = self.file.tensors
        weight, bias = constants(self.file, operator)
        before, after = (grid(tensors[index]) for index in (operator.inputs[0], operator.output))
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
        if self._pads(operator) and constants(self.file, operator)[0].shape[1] > 1:
            constant = constant & (low == self.file.tensors[operator.inputs[0]].zero_point)
        return constant

    def _kept(self) -> dict[int, Mask]:
        """The channels of each tensor that have to stay."""
        needed: dict[int, Mask] = {index: np.zeros(len(each.low), bool) for index, each in self.ranges.items()}
        for index in {*self.file.outputs, *self.file.inputs} & needed.keys():
            needed[index][:] = True
        both = [*zip(self.file.operators, self.kinds, strict=True)]
        count = -1
        while count < (count := sum(int(each.sum()) for each in needed.values())):  # until none asks for more
            for operator, kind in reversed(both):
                self._ask(operator, kind, needed)
            for operator, kind in both:
                alike = operator.inputs if kind == "add" else operator.inputs[:1] if kind in PASSING else ()
                for index in alike:
                    needed[operator.output] |= needed[index]
                if kind == "flat":
                    whole, part = needed[operator.output], needed[operator.inputs[0]]
                    needed[operator.output] = np.tile(part, len(whole) // len(part))
        return needed

    def _ask(self, operator: FileOperator, kind: str, needed: dict[int, Mask]) -> None:
        """Add the channels that an operator reads for those of its output that have to stay."""
        if not kind:
            for index in {*operator.inputs, *operator.outputs} & needed.keys():
                needed[index][:] = True
            return
        own, source = needed[operator.output], operator.inputs[0]
        if not own.any():
            own[0] = True
        if kind == "weights":
            weight = constants(self.file, operator)[0][own]
            needed[source] |= weight.any(axis=(0, 1)) & ~self._foldable(operator)
        elif kind == "flat":
            needed[source] |= own.reshape(-1, len(needed[source])).any(0)
        elif kind == "add":
            for index in operator.inputs:
                needed[index] |= own
        else:
            needed[source] |= own
        if not needed[source].any():
            needed[source][0] = True

    def done(self) -> File:
        operators = list[FileOperator]()
        for operator, kind in zip(self.file.operators, self.kinds, strict=True):
            if kind in ("weights", "depthwise"):
                operator = self._sliced(operator, self.kept[operator.inputs[0]], self.kept[operator.output])
            elif kind == "flat":
                shape = np.array([1, int(self.kept[operator.output].sum())], np.int32)
                at = self._add(FileTensor(shape.shape, shape.dtype, shape))
                operator = replace(operator, inputs=(operator.inputs[0], at), options=None, options_type=0)
            elif kind == "add":
                operator = self._with_constant(operator)
            operators.append(operator)
        for index, kept in self.kept.items():
            tensor = self.tensors[index]
            if not kept.all():
                self.tensors[index] = replace(tensor, shape=(*tensor.shape[:-1], int(kept.sum())))
        return replace(self.file, tensors=self.tensors, operators=_read(operators, self.file.outputs))

    def _with_constant(self, operator: FileOperator) -> FileOperator:
        """A sum whose one operand is the same for every input, with that as a constant."""
        place = self.constant.get(operator.output)
        if place is None:
            return operator
        old, kept = self.file.tensors[index := operator.inputs[place]], self.kept[operator.inputs[place]]
        data = self.ranges[index].low[kept].astype(np.int8).reshape(*[1] * (len(old.shape) - 1), -1)
        at = self._add(replace(old, shape=data.shape, data=data))
        return replace(operator, inputs=(at, operator.inputs[1]) if place == 0 else (operator.inputs[0], at))

    def _constant(self) -> dict[int, int]:
        """For sums with one operand that is the same for every input: which it is."""
        found = dict[int, int]()
        for operator, kind in zip(self.file.operators, self.kinds, strict=True):
            if kind == "add":
                same = [bool((low == high).all()) for low, high in (self.ranges[index] for index in operator.inputs)]
                if same.count(True) == 1:
                    found[operator.output] = same.index(True)
        return found

    def _add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _sliced(self, operator: FileOperator, source: Mask, own: Mask) -> FileOperator:
        if source.all() and own.all():
            return operator
        name, old = operator_name(operator), self.file.tensors[operator.inputs[1]]
        weight, bias = constants(self.file, operator)
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
        steps = (np.float32(grid(self.file.tensors[operator.inputs[0]]).scale) * scales).astype(np.float32)
        stored = FileTensor((int(own.sum()),), np.dtype(np.int32), bias[own].astype(np.int32), steps)
        return replace(operator, inputs=(operator.inputs[0], made, self._add(stored)))


def _read(operators: Sequence[FileOperator], outputs: Sequence[int]) -> list[FileOperator]:
    """The operators whose outputs somebody reads, and those that have none."""
    wanted, found = {*outputs}, list[FileOperator]()
    for operator in reversed(operators):
        if not operator.outputs or not wanted.isdisjoint(operator.outputs):
            wanted.update(operator.inputs)
            found.append(operator)
    return found[::-1]
