"""Fixed-point numbers of TensorFlow Lite's integer kernels: factors as multiplier and shift, and clipping ranges."""

from math import floor, frexp
from typing import Any, NamedTuple

import numpy as np

from fedprune.export.litert import Affine
from fedprune.types import Tensor

LEAST, MOST = -128, 127
_BEYOND = 2.0**17  # steps, more than int16 has from any zero point


class Factor(NamedTuple):
    """The real factor ``multiplier / 2^31 * 2^shift``."""

    multiplier: int
    shift: int


def factor(real: float) -> Factor:
    """Return a positive real factor in fixed point, its multiplier in [2^30, 2^31), rounded halves up; 0 is (0, 0)."""
    if real == 0:
        return Factor(0, 0)
    mantissa, shift = frexp(real)
    multiplier = floor(mantissa * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = multiplier // 2, shift + 1
    return Factor(0, 0) if shift < -31 else Factor(multiplier, shift)


def scaled(values: "np.integer[Any] | Tensor", by: Factor) -> Tensor:
    """Return ``values`` times a factor as the kernels round: the product halves up, the shift halves away from 0."""
    values = np.asarray(values, np.int64)
    left, right = max(by.shift, 0), max(-by.shift, 0)
    wide = (values << left).astype(np.int32).astype(np.int64)  # as they are shifted in 32 bits
    high = (wide * by.multiplier + (1 << 30)) >> 31
    if right == 0:
        return np.asarray(high)
    return np.asarray((high + (1 << (right - 1)) + (high >> 63)) >> right)


def sum_factors(first: float, second: float, result: float, left: int, squared: bool = False) -> list[float]:
    """Return the real factors of ADD and its like for two operands and a result of these scales.

    The first two bring steps, shifted to the ``left``, to units of half the larger scale, the last brings their sum, or
    its square, to steps of the result.
    """
    twice = 2 * max(np.float32(first), np.float32(second)).astype(np.float64)  # taken in single precision
    last = twice * twice / ((1 << (2 * left)) * result) if squared else twice / ((1 << left) * result)
    return [first / twice, second / twice, float(last)]


def clipping(activation: int, grid: Affine, limits: tuple[int, int] = (LEAST, MOST)) -> tuple[int, int]:
    """Return the least and the most that a fused activation lets through: NONE, RELU, RELU_N1_TO_1 or RELU6.

    ``limits`` are those of the type, int8 or int16. Raises ``ValueError`` for any other.
    """
    if activation not in _CLIPS:
        raise ValueError(f"a fused activation of kind {activation}")
    low, high = _CLIPS[activation]
    scale = np.float32(grid.scale)

    def level(real: float) -> int:
        with np.errstate(over="ignore"):
            steps = min(max(float(np.float32(real) / scale), -_BEYOND), _BEYOND)
        return grid.zero_point + int(np.sign(steps) * floor(abs(steps) + 0.5))

    least, most = limits
    return (
        least if low is None else max(least, level(low)),
        most if high is None else min(most, level(high)),
    )


_CLIPS: dict[int, tuple[float | None, float | None]] = {0: (None, None), 1: (0, None), 2: (-1, 1), 3: (0, 6)}
