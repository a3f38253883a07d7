"""What training costs by the conventions of papers on federated pruning: counted by formula, measured nowhere.

FLOPs: a multiply-add is two, a backward pass is two forward ones (gradients of activations, gradients of weights), and
only convolutions and linear layers count. Memory: weights and their gradients, no activations, nothing of a runtime. A
pruned layer lies as rows of (value, column), 4 bytes each, behind a pointer a row. So FedTiny's table has its methods
(Huang et al., ICDCS 2023, table II): 0.014 of the dense FLOPs and 0.03 of its memory for FedTiny with ResNet-18 at
density 0.01, and 0.34 and 0.51 for PruneFL, whose devices take dense gradients in every step.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedprune.budgets.compute import macs, sparse_macs
from fedprune.graph import Graph
from fedprune.types import Params, Tensor

_WORD = 4


def training_flops(graph: Graph, kept: Mapping[str, int], examples: int, *, dense: int = 0) -> int:
    """FLOPs of training steps over ``examples`` examples in all, of which ``dense`` need every weight's gradient.

    ``kept`` is parameter -> number of kept weights; one left out is dense. A pruned weight's gradient costs what a kept
    one's does, and whoever asks for some of a layer's is counted as taking all layers', as autograd does.
    """
    sparse = 2 * sparse_macs(graph, kept)
    return (2 * examples + (examples - dense)) * sparse + dense * 2 * macs(graph)


def training_bytes(params: Params, kept: Mapping[str, int], *, dense: bool = False, grown: int = 0) -> int:
    """Bytes of weights and of their gradients while training.

    ``dense``: every gradient is held, as by PruneFL; ``grown``: so many of pruned weights are, as (value, position).
    """
    trained = {name: value for name, value in params.items() if value.dtype.kind == "f"}
    weights = sum(_stored(value, kept.get(name)) for name, value in trained.items())
    gradients = sum(_WORD * value.size for value in trained.values()) if dense else weights
    return weights + gradients + 2 * _WORD * grown


def link_bytes(params: Params, kept: Mapping[str, int]) -> int:
    """Bytes that a model takes on the link, one way: 4 a value, and the smaller of a bit a position or 4 bytes each.

    A dense model has values alone.
    """
    total = 0
    for name, value in params.items():
        count = kept.get(name, value.size)
        positions = min(value.size / 8, _WORD * count) if count < value.size else 0
        total += _WORD * count + round(positions)
    return total


def _stored(value: Tensor, kept: int | None) -> int:
    if kept is None or kept >= value.size:
        return _WORD * value.size
    return min(_WORD * value.size, 2 * _WORD * kept + _WORD * (len(value) + 1))
