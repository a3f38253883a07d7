"""GATHER: rows of a constant table by tokens, or positions that are known beforehand."""

import numpy as np

from fedprune.export.c99.lowering import Lowering
from fedprune.export.c99.moves import move
from fedprune.export.c99.program import ALL_ROWS, Array, At, Fields, Layer
from fedprune.export.litert.flatbuffer import FileOperator


def gather(made: Lowering, operator: FileOperator) -> None:
    """Lower a GATHER of an activation by constants, or of a constant matrix's rows by an int32 activation."""
    if made.has(operator, 1) and made.tensor(operator.inputs[1]).data is not None:
        move(made, operator)
        return
    table = made.constant(operator, 0)
    options = made.options(operator)
    if not made.has(operator, 1) or made.tensor(operator.inputs[1]).dtype != np.int32:
        raise made.wrong("has no int32 indices")
    shape = (*made.tensor(operator.inputs[1]).shape, *table.shape[1:])
    if table.ndim != 2 or options.batchDims or made.axis(int(options.axis), 2):
        raise made.wrong("is not of a matrix's rows")
    if made.tensor(operator.output).shape != shape:
        raise made.wrong("does not give its output")
    source, result = made.map(operator.inputs[1], wide=True), made.map(operator.output)
    fields: Fields = {
        "in": At(source), "out": At(result), "table": Array("int8_t", table.reshape(-1).tolist()),
        "rows": len(table), "length": table.shape[1],
    }  # fmt: skip
    made.emit(Layer("gather", (source,), result, fields, ALL_ROWS))
