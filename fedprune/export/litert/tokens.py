"""What a model of tokens takes: which integers of 32 bits name rows of its tables."""

from contextlib import suppress

import numpy as np

from fedprune.export.litert.flatbuffer import File
from fedprune.export.litert.loops import flat
from fedprune.export.litert.reader import ModelError, operator_name


def vocabulary(file: File, place: int = 0) -> int:
    """Return how many tokens a model may be given at an input, which are 0 and on; 0 where it takes something else.

    Those are the rows of the smallest table of which its integers, as they are or moved, name rows.
    """
    if file.tensors[file.inputs[place]].dtype != np.int32:
        return 0
    with suppress(ModelError):  # of a loop whose length is not told
        file = flat(file).file
    tokens, rows = {file.inputs[place]}, list[int]()
    for operator in file.operators:
        if tokens.isdisjoint(operator.inputs):
            continue
        if operator_name(operator) == "GATHER" and len(operator.inputs) > 1 and operator.inputs[0] not in tokens:
            rows += file.tensors[operator.inputs[0]].shape[:1]
        elif operator.outputs and file.tensors[operator.output].dtype == np.int32:
            tokens.add(operator.output)
    return min(rows, default=0)
