"""What the native trainer drops, computed by numpy; and a net that drops just that."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedprune.graph import Dropout, trace
from fedprune.types import Tensor

Words = npt.NDArray[np.uint64]


def philox(counter: Sequence[npt.ArrayLike], key: Sequence[int]) -> list[Words]:
    """Four words of Philox4x32-10 for each counter of four words (Salmon et al., SC 2011)."""
    low, (k, other_k) = np.uint64(2**32 - 1), key
    a, b, c, d = (np.asarray(word, np.uint64) for word in counter)
    for _ in range(10):
        one, other = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (other >> 32) ^ b ^ np.uint64(k), other & low, (one >> 32) ^ d ^ np.uint64(other_k), one & low
        k, other_k = (k + 0x9E3779B9) % 2**32, (other_k + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def kept(op: Dropout, shape: Sequence[int], layer: int, examples: int, draw: int) -> Tensor:
    """Which values of a batch of examples (n, *shape) a dropout keeps, that comes after ``layer`` others."""
    elements = shape[0] if op.channels else int(np.prod(shape))
    element, example = np.arange(elements)[None], np.arange(examples)[:, None]
    words = philox((element // 4, 0 * element, example, layer), (draw % 2**32, draw >> 32))
    which = np.broadcast_to(element % 4, (examples, elements))
    drawn = np.choose(which, np.broadcast_arrays(*words))
    size = (shape[0], *[1] * (len(shape) - 1)) if op.channels else shape
    mask = (drawn >= op.chance * 2**32).reshape(examples, *size)
    return np.broadcast_to(mask, (examples, *shape))


class Imposed(nn.Module):
    """A dropout whose mask is given."""

    def __init__(self, mask: Tensor, chance: float) -> None:
        super().__init__()
        self.factor = torch.from_numpy(mask.astype(np.float64)) / (1 - chance)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor.reshape(x.shape)


def imposed(model: nn.Module, inputs: Tensor, draw: int) -> nn.Module:
    """A copy that drops what the native trainer drops of these inputs."""
    graph, found = trace(model, inputs, dropout=True), copy.deepcopy(model)
    ops = [op for op in graph.operations if isinstance(op, Dropout)]
    for layer, op in enumerate(ops):
        mask = kept(op, graph.shapes[op.output][1:], layer, len(inputs), draw)
        found.set_submodule(graph.modules[op.output], Imposed(mask, op.chance))
    return found
