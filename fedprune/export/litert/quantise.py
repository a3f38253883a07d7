"""Int8 arithmetic: the scales and zero points of a graph's tensors that follow from their ranges, and of weights."""

import numpy as np

from fedprune.export.litert.calibration import Ranges, calibrate
from fedprune.graph import (
    AvgPool,
    Concat,
    Constant,
    Embedding,
    Graph,
    LogSoftmax,
    Maximum,
    MaxPool,
    Minimum,
    Narrow,
    Operation,
    Pad,
    Permute,
    PixelShuffle,
    PixelUnshuffle,
    Reduce,
    Reshape,
    Resize,
    Rsqrt,
    Sigmoid,
    Slice,
    Softmax,
    Tanh,
    Widen,
)
from fedprune.int8 import LEVELS, Affine, affine
from fedprune.types import FloatTensor, Tensor

__all__ = ["Affine", "Ranges", "affine", "calibrate", "grids", "to_float", "to_int8", "weight_scales"]

_FIXED = {
    Softmax: Affine(1 / 256, -128),
    LogSoftmax: Affine(16 / 256, 127),
    Sigmoid: Affine(1 / 256, -128),
    Tanh: Affine(1 / 128, 0),
}
# These kernels copy or compare integers: scales of input and output must be equal.
_COPYING = (
    MaxPool, AvgPool, Pad, Slice, Reshape, Permute, PixelShuffle, PixelUnshuffle, Resize, Concat, Maximum, Minimum,
)  # fmt: skip
_WIDE = 32767

_FINEST = 2.0**-24
"""Least step of a product in steps of the output: what is smaller cannot move it, and XNNPACK refuses below 2^-32."""
_BIAS_LIMIT = 2.0**30


def grids(graph: Graph, ranges: Ranges) -> dict[str, Affine]:
    """Return the grid of every tensor: its own, or one of all tensors that an integer kernel copies between.

    What a kernel with a grid of its own (softmax, sigmoid, tanh) makes keeps that; where it meets others, in a
    concatenation for example, it has to be put on theirs. Grids of what `wide` names are of 16 bits, symmetric.

    Raises ``ValueError`` for a tensor without a range.
    """
    missing = graph.shapes.keys() - ranges.keys()
    if missing:
        raise ValueError(f"no range for {sorted(missing)}: calibrate the very graph that is written")
    leader = {name: name for name in graph.shapes}

    def root(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    fixed = {op.output: _FIXED[type(op)] for op in graph.operations if type(op) in _FIXED}
    copying = [op for op in graph.operations if isinstance(op, _COPYING) or _compares(op)]
    for op in copying:
        if len(op.inputs) == 1:
            leader[root(op.inputs[0])] = root(op.output)
    for op in copying:
        own = {root(name) for name in fixed}
        given = {fixed[name] for name in fixed for source in op.inputs if root(source) == root(name)}
        if len(given) == 1 and all(root(source) in own for source in op.inputs):
            own = set()  # all on that one grid
        for name in op.inputs:
            if root(name) not in own:
                leader[root(name)] = root(op.output)
    groups: dict[str, list[str]] = {}
    for name in graph.shapes:
        groups.setdefault(root(name), []).append(name)
    sixteen, tables = wide(graph), {op.output: op.weight.value for op in graph.operations if isinstance(op, Embedding)}
    found: dict[str, Affine] = {}
    for names in groups.values():
        low, high = min(ranges[name][0] for name in names), max(ranges[name][1] for name in names)
        for name in tables.keys() & set(names):  # also of the rows that no example has named
            low, high = min(low, float(tables[name].min())), max(high, float(tables[name].max()))
        wanted = [fixed[name] for name in names if name in fixed]
        if sixteen & set(names):
            grid = Affine(float(np.float32(max(-low, high) / _WIDE)) or 1.0, 0)
        else:
            grid = wanted[0] if wanted else affine(low, high)
        found.update(dict.fromkeys(names, grid))
    return _inverses(graph, found)


def _compares(op: Operation) -> bool:
    return isinstance(op, Reduce) and op.function in ("max", "min")


def _inverses(graph: Graph, found: dict[str, Affine]) -> dict[str, Affine]:
    # the inverse of a root is never more than that of the least step that the variance may take
    lower = dict[str, Affine]()
    for op in graph.operations:
        if isinstance(op, Rsqrt) and found[op.output].zero_point == 0:
            largest = min(found[op.output].scale * _WIDE, max(op.epsilon, found[op.inputs[0]].scale) ** -0.5)
            lower[op.output] = Affine(float(np.float32(largest / _WIDE)), 0)
    return found | lower


def wide(graph: Graph) -> frozenset[str]:
    """Return the tensors that the file holds in 16 bits: what is computed between a `Widen` and its `Narrow`."""
    found, constants = set[str](), {op.output for op in graph.operations if isinstance(op, Constant)}
    for op in graph.operations:
        if isinstance(op, Widen) or (not isinstance(op, Narrow) and found & set(op.inputs)):
            found.add(op.output)
            found.update(constants & set(op.inputs))
    return frozenset(found)


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
