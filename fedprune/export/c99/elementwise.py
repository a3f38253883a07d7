"""Operations on each value by itself: the 256 results, as the reference kernel gives them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedprune.export.litert import reference
from fedprune.export.litert.flatbuffer import File, FileOperator, pack


def table(file: File, operator: FileOperator) -> Sequence[int]:
    """Return an operator's result for each int8 input, -128 first, by running it alone in the reference kernels.

    Raises ``RuntimeError`` where they refuse it.
    """
    shape = (1, 1, 1, 256)
    ends = [replace(file.tensors[index], shape=shape, name="") for index in (operator.inputs[0], operator.output)]
    alone = File(ends, [replace(operator, inputs=(0,), output=1)], (0,), (1,))
    values = np.arange(-128, 128, dtype=np.int8)[None]
    return [int(value) for value in reference(pack(alone), values)[0]]
