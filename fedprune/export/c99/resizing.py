"""RESIZE_BILINEAR as a layer: between neighbours in steps of 1/1024, as the reference kernels do it in integers."""

from collections.abc import Mapping

import numpy as np

from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.moves import rows_between
from fedprune.export.c99.program import At, Fields, Layer
from fedprune.export.litert.flatbuffer import FileOperator
from fedprune.types import Tensor

_ONE = 1024


def _axis(made: Lowering, size: int, wanted: int, corners: bool, half: bool) -> tuple[int, int, Tensor]:
    """Return step and start in 1/1024, and the lower neighbour of each row or column that is wanted."""
    between = corners and wanted > 1
    parts = wanted - between
    step = (_ONE * (size - between) + parts // 2) // parts
    start = step // 2 - _ONE // 2 if half else 0
    lower = np.maximum(np.arange(wanted) * step + start, 0) // _ONE
    if lower[-1] >= size:
        raise made.wrong(f"makes {wanted} rows or columns of {size}: its steps round to places outside")
    return step, start, lower


def _bilinear(made: Lowering, operator: FileOperator) -> None:
    source, result = made.ends(operator)
    options, before, after = made.options(operator), made.maps[source], made.maps[result]
    shapes = [made.tensor(index).shape for index in (operator.inputs[0], operator.output)]
    if any(len(shape) != 4 or shape[0] != 1 for shape in shapes) or before.channels != after.channels:
        raise made.wrong("resizes batches, or changes channels")
    corners, half = bool(options.alignCorners), bool(options.halfPixelCenters)
    if corners and half:
        raise made.wrong("aligns corners and takes centres of pixels, which the kernels do not do at once")
    y_step, y_start, lower = _axis(made, before.height, after.height, corners, half)
    x_step, x_start, _ = _axis(made, before.width, after.width, corners, half)
    fields: Fields = {
        "in": At(source), "out": At(result), "step_y": y_step, "start_y": y_start, "step_x": x_step, "start_x": x_start,
    }  # fmt: skip
    rows = rows_between(lower, np.minimum(lower + 2, before.height), before.height)
    made.emit(Layer("bilinear", (source,), result, fields, rows))


RESIZES: Mapping[str, Rule] = {"RESIZE_BILINEAR": _bilinear}
