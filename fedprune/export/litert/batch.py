"""A file for a batch of several examples as one for a single one, where each example is computed by itself."""

import math
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor
from fedprune.export.litert.reader import operator_name

_BY_EXAMPLE = (
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "AVERAGE_POOL_2D", "MAX_POOL_2D", "RELU", "RELU6",
    "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "SOFTMAX", "QUANTIZE", "DEQUANTIZE",
    "ADD", "SUB", "MUL", "RESHAPE", "MEAN", "PAD", "CONCATENATION",
)  # fmt: skip


def single(file: File) -> File:
    """Return a file whose first axes, all of one size, are one; the file itself where examples are not told apart.

    Sizes that operators are given are taken from the shapes of their outputs, as TensorFlow Lite Micro does.
    """
    count = (file.tensors[file.inputs[0]].shape or (1,))[0]
    made = {*file.inputs, *(index for operator in file.operators for index in operator.outputs)}
    alike = all(file.tensors[index].shape[:1] == (count,) and len(file.tensors[index].shape) > 1 for index in made)
    if count == 1 or not alike or not all(_by_example(file, operator, count) for operator in file.operators):
        return file
    tensors = [_one(tensor) if index in made else tensor for index, tensor in enumerate(file.tensors)]
    operators = list[FileOperator]()
    for operator in file.operators:
        if operator_name(operator) == "RESHAPE":
            shape = np.array(tensors[operator.output].shape, np.int32)
            tensors.append(FileTensor(shape.shape, shape.dtype, shape))
            operator = replace(operator, inputs=(operator.inputs[0], len(tensors) - 1), options=None, options_type=0)
        operators.append(operator)
    return replace(file, tensors=tensors, operators=operators)


def _one(tensor: FileTensor) -> FileTensor:
    return replace(tensor, shape=(1, *tensor.shape[1:]))


def _by_example(file: File, operator: FileOperator, count: int) -> bool:
    if not operator.inputs or operator.inputs[0] < 0:
        return False
    name, source = operator_name(operator), file.tensors[operator.inputs[0]]
    result, constants = file.tensors[operator.output], [file.tensors[at] for at in operator.inputs[1:] if at >= 0]
    if name not in _BY_EXAMPLE or source.data is not None:
        return False
    if name == "RESHAPE":
        return math.prod(source.shape) % count == 0
    if name == "FULLY_CONNECTED":
        return bool(constants) and constants[0].shape[-1:] == source.shape[-1:]
    if name in ("ADD", "SUB", "MUL"):
        return all(each.data is None or len(each.shape) < len(result.shape) or each.shape[0] == 1 for each in constants)
    if name == "CONCATENATION":
        return operator.options.axis % len(result.shape) > 0 and all(each.data is None for each in constants)
    if name in ("MEAN", "PAD"):
        given = constants[0].data if constants else None
        if given is None or (name == "PAD" and given.size != 2 * len(source.shape)):
            return False
        return not given.reshape(-1, 2)[0].any() if name == "PAD" else not (given % len(source.shape) == 0).any()
    return True
