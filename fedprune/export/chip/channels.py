"""What a channel of an int8 file goes through in each operator, where channels are told apart."""

from collections.abc import Sequence

import numpy as np

from fedprune.export.c99.numbers import Factor, clipping, factor, scaled, sum_factors
from fedprune.export.litert import Affine
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name
from fedprune.types import Tensor

_CURVES = ("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "ELU", "GELU", "ABS")
_POOLS = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
PASSING = ("depthwise", "curve", "pool", "pad", "mean")
"""Each channel by itself, from the first input."""


def kind_of(file: File, operator: FileOperator) -> str:
    """What a channel goes through: ``weights``, ``depthwise``, ``flat``, ``add``, one of `PASSING`; "" for others."""
    name, tensors = operator_name(operator), file.tensors
    if min(operator.inputs[:2], default=-1) < 0:
        return ""
    ends = [tensors[index] for index in (*operator.inputs[:1], *operator.outputs) if index >= 0]
    if len(ends) != 2 or not all(map(_is_activation, ends)):
        return ""
    source, result = ends
    if min(len(source.shape), len(result.shape)) < 2 or grid(source).scale <= 0 or grid(result).scale <= 0:
        return ""
    if name == "ADD":
        return "add" if _is_plain_sum(file, operator, result) else ""
    if name in _CURVES and len(operator.inputs) == 1 and source.shape == result.shape:
        return "curve"
    same = source.shape[-1] == result.shape[-1]
    if name in _POOLS and same and len(source.shape) == 4 and grid(source) == grid(result):
        return "pool" if clips_plainly(operator) else ""
    if name == "PAD" and same and len(operator.inputs) == 2 and grid(source) == grid(result):
        sides = file.tensors[operator.inputs[1]].data
        return "pad" if sides is not None and not sides.reshape(-1)[-2:].any() else ""
    if name == "MEAN" and same and len(source.shape) == 4 and len(operator.inputs) == 2:
        axes = file.tensors[operator.inputs[1]].data
        return "mean" if axes is not None and {*(axes.reshape(-1) % 4).tolist()} == {1, 2} else ""
    if name == "RESHAPE" and len(source.shape) == 4 and result.shape == (1, int(np.prod(source.shape))):
        return "flat"
    if name not in _WEIGHTED or not _is_sound(file, operator, source, result):
        return ""
    return "depthwise" if name == "DEPTHWISE_CONV_2D" else "weights"


def _is_activation(tensor: FileTensor) -> bool:
    return tensor.dtype == np.int8 and tensor.data is None and tensor.scales is not None and not tensor.variable


def _is_sound(file: File, operator: FileOperator, source: FileTensor, result: FileTensor) -> bool:
    name = operator_name(operator)
    weight = file.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
    bias = file.tensors[operator.inputs[2]] if has_bias(operator) else None
    if weight is None or weight.data is None or weight.dtype != np.int8 or weight.scales is None or weight.zero_point:
        return False
    if bias is not None and (bias.data is None or bias.dtype != np.int32):
        return False
    if weight.sparsity is not None or not clips_plainly(operator):
        return False
    axes = 2 if name == "FULLY_CONNECTED" else 4
    if len(weight.shape) != axes or len(source.shape) < 2 or (axes == 4 and len(source.shape) != 4):
        return False
    by_channel = name == "DEPTHWISE_CONV_2D"
    count = weight.shape[3 if by_channel else 0]
    if bias is not None and bias.data is not None and bias.data.size != count:
        return False
    reads = weight.shape[-1] == source.shape[-1] and (weight.shape[0] == 1 or not by_channel)
    return reads and result.shape[-1] == count and len(weight.scales) in (1, count)


def _is_plain_sum(file: File, operator: FileOperator, result: FileTensor) -> bool:
    """Whether two activations of one shape are added."""
    ends = [file.tensors[index] for index in operator.inputs]
    alike = all(_is_activation(each) and each.shape == result.shape for each in ends)
    if len(ends) != 2 or not alike or not clips_plainly(operator) or min(grid(each).scale for each in ends) <= 0:
        return False
    return max(by.shift for by in _factors(ends, result)) <= 0


def _factors(operands: Sequence[FileTensor], result: FileTensor) -> list[Factor]:
    first, second, last = (grid(each).scale for each in (*operands, result))
    return [factor(each) for each in sum_factors(first, second, last, _LEFT)]


def added(file: File, operator: FileOperator, first: Tensor, second: Tensor) -> Tensor:
    """Return what a sum gives for levels of its operands, as the kernels round. It never falls where one rises."""
    operands, result = [file.tensors[index] for index in operator.inputs], file.tensors[operator.output]
    *parts, last = _factors(operands, result)
    total = np.zeros((), np.int64)
    for each, tensor, by in zip((first, second), operands, parts, strict=True):
        total = total + scaled((each.astype(np.int64) - tensor.zero_point) << _LEFT, by)
    levels: Tensor = scaled(total, last) + result.zero_point
    return levels.clip(*clipping(operator.options.fusedActivationFunction, grid(result)))


_LEFT = 20  # bits that the kernels shift operands of int8 by


def constants(file: File, operator: FileOperator) -> tuple[Tensor, Tensor]:
    """Return the weights of an operator that has some, (filters, taps, channels), and its biases, in int64."""
    data, name = file.tensors[operator.inputs[1]].data, operator_name(operator)
    assert data is not None
    weight = data.astype(np.int64)
    if name == "DEPTHWISE_CONV_2D":
        weight = np.moveaxis(weight[0], -1, 0).reshape(weight.shape[-1], -1, 1)
    else:
        weight = weight.reshape(weight.shape[0], -1, weight.shape[-1])
    bias = file.tensors[operator.inputs[2]].data if has_bias(operator) else None
    return weight, np.zeros(len(weight), np.int64) if bias is None else bias.reshape(-1).astype(np.int64)


def has_bias(operator: FileOperator) -> bool:
    """Whether an operator with weights has biases."""
    return len(operator.inputs) > 2 and operator.inputs[2] >= 0


def clips_plainly(operator: FileOperator) -> bool:
    """Whether an operator's fused activation is one of those that clip, or none."""
    return operator.options is not None and operator.options.fusedActivationFunction in range(4)


def grid(tensor: FileTensor) -> Affine:
    """Return the scale and the zero point of an activation."""
    assert tensor.scales is not None
    return Affine(float(tensor.scales[0]), tensor.zero_point)
