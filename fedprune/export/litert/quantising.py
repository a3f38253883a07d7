"""A float .tflite that somebody brings as int8: ranges by examples, grids, weights and biases, operator by operator."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedprune.export import apart
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.quantise import Affine, affine, to_int8, weight_scales
from fedprune.export.litert.reader import ModelError, operator_name
from fedprune.export.litert.runtime import keeping_all
from fedprune.export.litert.sparsity import whole
from fedprune.types import FloatTensor, Tensor

_FIXED = {
    "SOFTMAX": Affine(1 / 256, -128),
    "LOGISTIC": Affine(1 / 256, -128),
    "TANH": Affine(1 / 128, 0),
    "LOG_SOFTMAX": Affine(16 / 256, 127),
    "L2_NORMALIZATION": Affine(1 / 128, 0),
}
_MOVING = (
    "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "MIRROR_PAD", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE",
    "STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER", "TILE", "BROADCAST_TO", "REVERSE_V2",
    "REDUCE_MAX", "REDUCE_MIN", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
)  # fmt: skip
_JOINING = ("CONCATENATION", "PACK", "MAXIMUM", "MINIMUM")
_WEIGHTED = {"CONV_2D": (0, 2), "DEPTHWISE_CONV_2D": (3, 2), "FULLY_CONNECTED": (None, 2), "TRANSPOSE_CONV": (0, 3)}
"""The axis of a weight that each has a scale of its own for, and the place of the bias."""
_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4} | dict.fromkeys(
    (
        "TRANSPOSE_CONV", "AVERAGE_POOL_2D", "MAX_POOL_2D", "ADD", "SUB", "MUL", "CONCATENATION", "MEAN", "SUM",
        "PAD", "PADV2", "SOFTMAX", "LOGISTIC", "TANH", "RELU", "RELU6", "STRIDED_SLICE", "SLICE", "SPLIT",
        "TRANSPOSE", "MAXIMUM", "MINIMUM", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH",
        "LEAKY_RELU", "LOG_SOFTMAX", "PACK", "L2_NORMALIZATION", "BATCH_MATMUL", "REDUCE_MAX", "REDUCE_MIN", "GATHER",
        "UNPACK", "MIRROR_PAD", "DIV", "ABS", "SQUARED_DIFFERENCE", "EXP", "LOG", "RSQRT",
    ),
    2,
)  # fmt: skip
"""The least that has int8, where it is not the first."""
_SYMMETRIC = ("PRELU", "BATCH_MATMUL")


def is_float(file: File) -> bool:
    """Return whether a file computes in floats: it takes them, and nothing quantises them."""
    made = {index for operator in file.operators for index in operator.outputs} | {*file.inputs}
    dtypes = {file.tensors[index].dtype for index in made if file.tensors[index].data is None}
    return np.dtype(np.float32) in dtypes and not dtypes & {np.dtype(np.int8), np.dtype(np.int16), np.dtype(np.uint8)}


def quantised(file: File, examples: Sequence[Sequence[FloatTensor]]) -> File:
    """Return a float file as one of int8, its ranges the extremes over ``examples``: for each, the inputs in order.

    Raises ``ModelError`` for values that are not finite, and ``RuntimeError`` where LiteRT does not run the file.
    """
    if file.subgraphs:
        raise ModelError("the model has subgraphs; a float file with loops or variables is not quantised here")
    plain = _unpacked(file)
    low, high = _extremes(plain, examples)
    return _Quantising(plain, low, high).done()


def _unpacked(file: File) -> File:
    """The file with all weights as floats and whole: without DEQUANTIZE and DENSIFY of constants."""
    tensors, operators = [*map(whole, file.tensors)], list[FileOperator]()
    for operator in file.operators:
        source = tensors[operator.inputs[0]] if operator.inputs and operator.inputs[0] >= 0 else None
        if operator_name(operator) == "DEQUANTIZE" and source is not None and source.data is not None:
            values: Tensor = source.data.astype(np.float32)
            if source.scales is not None:
                along = [-1 if axis == source.axis else 1 for axis in range(values.ndim)]
                values = (values - source.zero_point) * source.scales.reshape(along if len(source.scales) > 1 else -1)
            values = values.astype(np.float32)
            tensors[operator.output] = replace(tensors[operator.output], data=values.reshape(source.shape))
        elif operator_name(operator) == "DENSIFY" and source is not None and source.data is not None:
            tensors[operator.output] = replace(tensors[operator.output], data=source.data)
        else:
            operators.append(operator)
    return replace(file, tensors=tensors, operators=operators)


def _extremes(file: File, examples: Sequence[Sequence[FloatTensor]]) -> tuple[FloatTensor, FloatTensor]:
    given = {f"input{at}": np.stack(each) for at, each in enumerate(zip(*examples, strict=True))}
    made = {*file.inputs, *(index for operator in file.operators for index in operator.outputs)}
    places = np.array(sorted(index for index in made if file.tensors[index].dtype == np.float32))
    found = apart.call("extremes", {"model": np.frombuffer(pack(file), np.uint8), "places": places, **given})
    low, high = found["low"], found["high"]
    for operator in file.operators:
        if operator_name(operator) == "PADV2":  # with less than anything, before a maximum
            low[operator.output], high[operator.output] = low[operator.inputs[0]], high[operator.inputs[0]]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ModelError("the model's activations are not finite on these examples")
    return low, high


def extremes_here(model: bytes, places: Tensor, inputs: Sequence[Tensor]) -> tuple[FloatTensor, FloatTensor]:
    """Return the least and the largest value of the tensors at ``places``, zero included, by their numbers.

    Computed in this process, which a model may end.
    """
    running = keeping_all(model)
    low, high = np.zeros(1 + places.max(), np.float32), np.zeros(1 + places.max(), np.float32)
    for example in zip(*inputs, strict=True):
        for port, values in zip(running.get_input_details(), example, strict=True):
            running.set_tensor(port["index"], values.reshape(port["shape"]).astype(port["dtype"]))
        running.invoke()
        for at in places:
            values = running.get_tensor(at)
            if values.size:
                low[at], high[at] = np.minimum(low[at], values.min()), np.maximum(high[at], values.max())
    return low, high


class _Quantising:
    """A file of int8 in the making."""

    def __init__(self, file: File, low: FloatTensor, high: FloatTensor) -> None:
        self.file, self.low, self.high = file, low, high
        self.tensors = list(file.tensors)
        self.operators: list[FileOperator] = []
        self.readers = [index for operator in file.operators for index in operator.inputs]
        self.leader = {index: index for index in range(len(file.tensors))}
        self.fixed = {
            operator.output: _FIXED[name] for operator in file.operators if (name := operator_name(operator)) in _FIXED
        }
        self.grids = self._grids()

    def _root(self, index: int) -> int:
        while self.leader[index] != index:
            index = self.leader[index]
        return index

    def _floats(self, indices: Sequence[int]) -> list[int]:
        """Those that are activations of floats."""
        found = [index for index in indices if index >= 0 and self.file.tensors[index].data is None]
        return [index for index in found if self.file.tensors[index].dtype == np.float32]

    def _grids(self) -> Mapping[int, Affine]:
        for operator in self.file.operators:
            if operator_name(operator) in _MOVING:
                for index in operator.outputs if (sources := self._floats(operator.inputs)) else ():
                    self.leader[self._root(index)] = self._root(sources[0])
        own = {self._root(index) for index in self.fixed}
        for operator in self.file.operators:
            if operator_name(operator) in _JOINING:
                for index in self._floats(operator.inputs):
                    if self._root(index) not in own and self.readers.count(index) == 1:
                        self.leader[self._root(index)] = self._root(operator.output)
        groups = dict[int, list[int]]()
        for index in self._floats(range(len(self.file.tensors))):
            groups.setdefault(self._root(index), []).append(index)
        found = dict[int, Affine]()
        for members in groups.values():
            wanted = [self.fixed[index] for index in members if index in self.fixed]
            ends = min(float(self.low[at]) for at in members), max(float(self.high[at]) for at in members)
            found |= dict.fromkeys(members, wanted[0] if wanted else affine(*ends))
        return found

    def done(self) -> File:
        for index, grid in self.grids.items():
            self.tensors[index] = self._on(self.file.tensors[index], grid)
        for operator in self.file.operators:
            name = operator_name(operator)
            if not self._floats(operator.inputs):
                self.operators.append(operator)
                continue
            inputs = self._weighted(operator, *_WEIGHTED[name]) if name in _WEIGHTED else self._plain(operator, name)
            version = max(operator.version, _VERSIONS.get(name, 1))
            self.operators.append(replace(operator, inputs=inputs, version=version))
        return File(self.tensors, self.operators, self.file.inputs, self.file.outputs)

    def _on(self, tensor: FileTensor, grid: Affine) -> FileTensor:
        low, high = ((level - grid.zero_point) * grid.scale for level in (-128, 127))
        data = None if tensor.data is None else to_int8(tensor.data.clip(low, high), grid)
        scales = np.array([grid.scale], np.float32)
        return replace(tensor, dtype=np.dtype(np.int8), data=data, scales=scales, zero_point=grid.zero_point, axis=0)

    def _add(self, tensor: FileTensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _plain(self, operator: FileOperator, name: str) -> tuple[int, ...]:
        inputs, result = list[int](), self.grids.get(operator.output)
        for index in operator.inputs:
            tensor = self.file.tensors[index] if index >= 0 else None
            if tensor is None or tensor.dtype != np.float32:
                inputs.append(index)
            elif tensor.data is not None:
                copies = name in (*_JOINING, *_MOVING) and result is not None
                inputs.append(self._add(self._on(tensor, result if copies and result else _own(tensor.data, name))))
            elif name in _JOINING and result is not None and self.grids[index] != result:
                inputs.append(self._requantised(index, result))
            else:
                inputs.append(index)
        return (*inputs,)

    def _requantised(self, index: int, grid: Affine) -> int:
        from ai_edge_litert.schema_py_generated import BuiltinOperator

        result = self._add(self._on(replace(self.file.tensors[index], name=""), grid))
        self.operators.append(FileOperator(BuiltinOperator.QUANTIZE, 2, (index,), result, None, 0))
        return result

    def _weighted(self, operator: FileOperator, axis: int | None, place: int) -> tuple[int, ...]:
        inputs = [*operator.inputs]
        source = inputs[2] if place == 3 else inputs[0]
        weight = self.file.tensors[inputs[1]]
        if weight.data is None or weight.dtype != np.float32:
            raise ModelError(f"{operator_name(operator)} has weights that are no constant of floats")
        has_bias = len(inputs) > place and inputs[place] >= 0
        bias = self.file.tensors[inputs[place]].data if has_bias else None
        rows = np.moveaxis(weight.data, axis or 0, 0).reshape(weight.shape[axis or 0], -1)
        offsets: FloatTensor = np.zeros(len(rows), np.float32) if bias is None else bias.reshape(-1)
        ends = self.grids[source], self.grids[operator.output]
        scales = weight_scales(rows, offsets, *ends)
        scales = scales.max(keepdims=True) if axis is None else scales
        spread: Any = scales.reshape([-1 if at == axis else 1 for at in range(weight.data.ndim)])
        levels = np.clip(np.rint(weight.data / spread), -127, 127).astype(np.int8)
        stored = replace(weight, dtype=np.dtype(np.int8), data=levels, scales=scales, zero_point=0, axis=axis or 0)
        inputs[1] = self._add(stored)
        if bias is not None:
            steps = (np.float32(ends[0].scale) * scales).astype(np.float32)
            whole = np.rint(offsets.astype(np.float64) / steps).astype(np.int32)
            old = self.file.tensors[inputs[place]]
            stored = replace(old, dtype=np.dtype(np.int32), data=whole.reshape(old.shape), scales=steps, axis=0)
            inputs[place] = self._add(stored)
        return (*inputs,)


def _own(values: Tensor, name: str) -> Affine:
    """The grid of a constant operand."""
    if name in _SYMMETRIC:
        return Affine(float(np.float32(np.abs(values).max(initial=0) / 127)) or 1.0, 0)
    return affine(float(values.min(initial=0)), float(values.max(initial=0)))
