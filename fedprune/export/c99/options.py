"""Macros that choose between the kernels' variants."""

import math
from collections.abc import Iterable

from fedprune.export.c99.dense import has_large_sums
from fedprune.export.c99.program import Layer, Program, Structs

LARGE_BIASES = "#define MODEL_HAS_LARGE_BIASES"
_MANY = 1 << 15  # weights of a filter whose sums could pass 2^29, at most 2^14 each
_MANY_APART = 10_922  # of a depthwise one, whose places in 16 bits a kernel for Helium reckons with


def options(program: Program) -> Iterable[str]:
    """Return the lines that define what a program needs of them."""
    structs = [value for layer in program.layers for value in layer.fields.values() if isinstance(value, Structs)]
    filters = [each for value in structs if value.name == "filter" for each in value.items]
    every = [*(layer.fields for layer in program.layers), *(item for value in structs for item in value.items)]
    shifts = [value for fields in every for key, value in fields.items() if key.endswith("shift")]
    if any(_number(shift) >= 0 for shift in shifts) or any(_number(each["right"]) <= 0 for each in filters):
        yield "#define MODEL_HAS_LARGE_FACTORS"
    many = any(_reads(layer) >= (_MANY_APART if layer.kernel == "depthwise" else _MANY) for layer in program.layers)
    if many or any(abs(_number(each["bias"])) >= 1 << 23 for each in filters):
        yield LARGE_BIASES
    if any(map(has_large_sums, program.layers)):
        yield "#define MODEL_HAS_LARGE_SUMS"
    if any(layer.rows.per > 1 for layer in program.layers):
        yield "#define MODEL_HAS_MORE_ROWS"


def _reads(layer: Layer) -> int:
    """Return how many weights a filter of a layer has, or cells its window."""
    if layer.filters is not None:
        return int(layer.filters.levels.shape[1])
    return math.prod(_number(layer.fields.get(f"kernel_{axis}", 1)) for axis in ("height", "width"))


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
