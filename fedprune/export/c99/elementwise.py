"""Operations on each value by itself: the 256 results, as the reference kernels give them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from fedprune.export import tflm
from fedprune.export.litert import reference
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.reader import operator_name

_NOT_BELOW_ZERO = ("RSQRT", "SQRT", "LOG")  # which a kernel ends over, wherever it stands


def table(tensor: Callable[[int], FileTensor], operator: FileOperator, position: int = 0) -> Sequence[int]:
    """Return an operator's result for each int8 input, -128 first, by running it alone in the reference kernels.

    ``tensor`` gives those that it names; ``position`` is that of the input; the others are constants of one value. The
    kernels are those of TensorFlow Lite Micro, or LiteRT's where that has none of this operator or is not installed.
    What has no result, as a root of less than 0, gets that of 0.

    Raises ``RuntimeError`` where both refuse it.
    """
    shape = (1, 1, 1, 256)
    tensors = [replace(tensor(index), name="") for index in (*operator.inputs, operator.output)]
    for at in (position, -1):
        tensors[at] = replace(tensors[at], shape=shape)
    count = len(operator.inputs)
    alone = File(tensors, [replace(operator, inputs=(*range(count),), output=count)], (position,), (count,))
    least = tensors[position].zero_point if operator_name(operator) in _NOT_BELOW_ZERO else -128
    values, model = np.arange(-128, 128).clip(least).astype(np.int8)[None], pack(alone)
    with suppress(RuntimeError, ValueError):
        return [int(value) for value in tflm.levels(model, values)[0]]
    return [int(value) for value in reference(model, values)[0]]
