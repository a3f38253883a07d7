"""Int8 arithmetic: the scales and zero points of a graph's tensors that follow from their ranges, and of weights."""

import numpy as np

from fedprune.export.litert.calibration import Ranges, calibrate
from fedprune.graph import (
    AvgPool,
    Concat,
    Graph,
    MaxPool,
    Pad,
    Reshape,
    Sigmoid,
    Slice,
    Softmax,
    Tanh,
    UnsupportedOperation,
)
from fedprune.int8 import LEVELS, Affine, affine
from fedprune.types import FloatTensor, Tensor

__all__ = ["Affine", "Ranges", "affine", "calibrate", "grids", "to_float", "to_int8", "weight_scales"]

_FIXED = {Softmax: Affine(1 / 256, -128), Sigmoid: Affine(1 / 256, -128), Tanh: Affine(1 / 128, 0)}
# These kernels copy or compare integers: scales of input and output must be equal.
_COPYING = (MaxPool, AvgPool, Pad, Slice, Reshape, Concat)

_FINEST = 2.0**-24
"""Least step of a product in steps of the output: what is smaller cannot move it, and XNNPACK refuses below 2^-32."""
_BIAS_LIMIT = 2.0**30


def grids(graph: Graph, ranges: Ranges) -> dict[str, Affine]:
    """Return the grid of every tensor: its own, or one of all tensors that an integer kernel copies between.

    Raises ``ValueError`` for a tensor without a range, and ``UnsupportedOperation`` where a kernel that fixes its
    output's grid (softmax, sigmoid, tanh) feeds one that would have to widen it.
    """
    missing = graph.shapes.keys() - ranges.keys()
    if missing:
        raise ValueError(f"no range for {sorted(missing)}: calibrate the very graph that is written")
    leader = {name: name for name in graph.shapes}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for op in graph.operations:
        if isinstance(op, _COPYING):
            for name in op.inputs:
                leader[root(name)] = root(op.output)
    groups: dict[str, list[str]] = {}
    for name in graph.shapes:
        groups.setdefault(root(name), []).append(name)
    fixed = {op.output: _FIXED[type(op)] for op in graph.operations if type(op) in _FIXED}
    found: dict[str, Affine] = {}
    for names in groups.values():
        low, high = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
        wanted = {fixed[name] for name in names if name in fixed}
        grid = affine(low, high) if not wanted else wanted.pop()
        if wanted or not _covers(grid, low, high):
            raise UnsupportedOperation(
                f"tensors {names} must share one int8 grid, which a softmax, sigmoid or tanh fixes"
            )
        found.update(dict.fromkeys(names, grid))
    return found


def _covers(grid: Affine, low: float, high: float) -> bool:
    first, last = grid.scale * (-128 - grid.zero_point), grid.scale * (127 - grid.zero_point)
    return first - grid.scale <= low and high <= last + grid.scale


def weight_scales(weight: FloatTensor, bias: FloatTensor, source: Affine, result: Affine) -> FloatTensor:
    """Return the symmetric scale of each row of ``weight`` (rows, values): ``max |w| / 127``.

    It is larger where the bias ``b / (source scale * scale)`` would leave 31 bits, or where the products could not move
    the output: a row that pruning has emptied keeps a usable scale.
    """
    largest = np.abs(weight).max(axis=1).astype(np.float64) / LEVELS
    for_bias = np.abs(bias) / (source.scale * _BIAS_LIMIT)
    finest = _FINEST * result.scale / source.scale
    scales: FloatTensor = np.maximum(np.maximum(largest, for_bias), finest).astype(np.float32)
    return scales


def to_int8(values: FloatTensor, grid: Affine) -> Tensor:
    """Return ``values`` on the grid, saturated, int8."""
    levels: Tensor = np.clip(np.rint(values / np.float32(grid.scale)) + grid.zero_point, -128, 127)
    return levels.astype(np.int8)


def to_float(integers: Tensor, grid: Affine) -> FloatTensor:
    """Return the real values of ``integers`` on the grid, float32."""
    return (integers.astype(np.float32) - grid.zero_point) * np.float32(grid.scale)
