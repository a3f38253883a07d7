"""The int8 grid of a range of real values: what files are written on, and what fake quantisation rounds to."""

from typing import NamedTuple

import numpy as np

LEVELS = 127
"""The largest level of a weight, whose grid is symmetric."""
_NOTHING = 1e-20
"""A range below which products of scales would leave float32."""


class Affine(NamedTuple):
    """``real = scale (integer - zero_point)``."""

    scale: float
    zero_point: int


def affine(low: float, high: float) -> Affine:
    """Return the int8 grid over [low, high] and zero, with zero exactly on it; a range of nothing has scale 1.

    ``scale = (high - low) / 255`` and ``zero point = round(-128 - low / scale)``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low < _NOTHING:
        return Affine(1.0, 0)
    scale = float(np.float32((high - low) / 255))
    return Affine(scale, min(max(round(-128 - low / scale), -128), 127))
