"""C99 sources of an int8 model: zeros cost neither flash nor instructions, the arena is static, the bits are TFLM's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedprune.export.c99.dense import dense
from fedprune.export.c99.encoding import DENSE, MOST_SEGMENTS, Code, fastest, smallest
from fedprune.export.c99.plan import plan
from fedprune.export.c99.rules import lower
from fedprune.export.c99.sources import Sources, sources
from fedprune.export.litert.reader import ModelError
from fedprune.types import Tensor

__all__ = ["Sources", "fastest", "generate", "smallest"]

Optimise = Callable[[Sequence[Tensor], Sequence[str]], list[Code]]
"""What chooses an encoding for the weights of each layer, given their kernels."""


def generate(model: bytes, optimise: Optimise = smallest, extra: str = "") -> Sources:
    """Return the C99 sources of any int8 .tflite whose operators have kernels.

    Args:
        model: the .tflite bytes.
        optimise: `smallest` for the least flash, `fastest` for the fewest instructions.
        extra: text at the end of the header.

    Raises:
        ModelError: the file is not sound, or not one that the kernels cover; one line says what is wrong.
    """
    program = lower(model)
    filters = {number: layer.filters.levels for number, layer in enumerate(program.layers) if layer.filters is not None}
    kernels = [program.layers[number].kernel for number in filters]
    codes = dict(zip(filters, optimise([*filters.values()], kernels), strict=True))
    if max((code.segments for code in codes.values()), default=0) > MOST_SEGMENTS:
        raise ModelError("a layer has filters of so many weights that their sums would take more than 255 parts")
    layers = [*program.layers]
    for number in [number for number, code in codes.items() if code.encoding == DENSE]:
        if (whole := dense(layers[number])) is not None:
            layers[number] = whole
            del codes[number]
    program = replace(program, layers=layers)
    return sources(program, plan(program), codes, extra)
