"""Operations on each value by itself: the 256 results, as the reference kernel gives them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileOperator, pack
from fedprune.export.litert.runtime import interpreter


def table(file: File, operator: FileOperator) -> Sequence[int]:
    """Return an operator's result for each int8 input, -128 first, by running it alone in the reference kernels."""
    shape = (1, 1, 1, 256)
    ends = [replace(file.tensors[index], shape=shape, name="") for index in (operator.inputs[0], operator.output)]
    alone = File(ends, [replace(operator, inputs=(0,), output=1)], (0,), (1,))
    running = interpreter(pack(alone), reference=True)
    running.allocate_tensors()
    values = np.arange(-128, 128, dtype=np.int8).reshape(shape)
    running.set_tensor(running.get_input_details()[0]["index"], values)
    running.invoke()
    return [int(value) for value in running.get_tensor(running.get_output_details()[0]["index"]).reshape(-1)]
