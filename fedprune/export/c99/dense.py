"""Layers with every weight: two filters in each half of a word, for chips that multiply two halves at once."""

from dataclasses import replace

import numpy as np

from fedprune.export.c99.program import Array, Fields, Layer
from fedprune.types import Tensor

_SUM_LIMIT = 1 << 15
"""Of a filter's weights in the first half of its words, and in the second: where sums of two positions share a word,
one with inputs of at most 128 must fit into 23 bits with its sign. Both together then fit into 24 bits."""
_MOST_WORDS = 0xFFFF
_SPARSE = ("group_inputs", "groups")


def dense(layer: Layer) -> Layer | None:
    """Return a convolution or a fully connected layer as one of the kernels of pairs; None where its weights forbid."""
    if layer.filters is None or layer.fields.get("groups", 1) != 1 or layer.kernel not in ("conv", "linear"):
        return None
    fields: Fields = {name: value for name, value in layer.fields.items() if name not in _SPARSE}
    levels = layer.filters.levels
    if layer.kernel == "linear":
        halves = _halves(levels, 4, 4)
        if halves is None or halves.shape[1] > 4 * _MOST_WORDS:
            return None
        # of four inputs those that one instruction takes apart: the first and third, the second and fourth
        words = _words(halves.reshape(*halves.shape[:1], -1, 2, 2).swapaxes(2, 3).reshape(len(halves), -1))
        content = words.reshape(len(words) // 2, 2, -1).swapaxes(1, 2)
        made = {**fields, "code": _array(content), "fours": halves.shape[1] // 4}
        return replace(layer, kernel="vector", fields=made)
    halves = _halves(levels, 2, 2)
    if halves is None or halves.shape[1] > 2 * _MOST_WORDS:
        return None
    content = _words(halves)
    scratch = 16 * content.shape[1] + levels.shape[1]
    made = {**fields, "code": _array(content), "words": content.shape[1], "halved": int(_large(levels))}
    return replace(layer, kernel="dense", fields=made, scratch_bytes=scratch, helpers=("dense_helium",))


def has_large_sums(layer: Layer) -> bool:
    """Whether a dense convolution has sums that must be computed in two halves, where two share a word."""
    return layer.kernel == "dense" and layer.fields["halved"] == 1


def _large(levels: Tensor) -> bool:
    return bool(np.abs(levels.astype(np.int64)).sum(1).max(initial=0) >= _SUM_LIMIT)


def _halves(levels: Tensor, filters: int, weights: int) -> Tensor | None:
    # (pairs of filters, weights): A + 256 B, filled up to multiples with zeros; None where a half or a sum is too large
    count, length = levels.shape
    whole = np.zeros((-(-count // filters) * filters, -(-length // weights) * weights), np.int64)
    whole[:count, :length] = levels
    halves = whole[::2] + 256 * whole[1::2]
    middle = whole.shape[1] // 4 * 2
    most = max(np.abs(part).sum(1).max(initial=0) for part in (whole[:, :middle], whole[:, middle:]))
    fits = halves.min(initial=0) >= -(2**15) and most < _SUM_LIMIT
    return halves & 0xFFFF if fits else None


def _words(halves: Tensor) -> Tensor:
    return np.asarray(halves[:, ::2] | halves[:, 1::2] << 16).astype(np.uint32).view(np.int32)


def _array(words: Tensor) -> Array:
    return Array("int32_t", words.reshape(-1).tolist())
