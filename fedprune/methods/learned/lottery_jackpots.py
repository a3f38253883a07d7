"""Lottery jackpots: a mask is trained over weights that are not (Zhang et al., TPAMI 2023, arXiv 2104.08700)."""

from collections.abc import Mapping

import numpy as np

from fedprune.aggregation import votes
from fedprune.methods.layers import Shapes, density_in_range, masked
from fedprune.pruning.parts import statistics
from fedprune.pruning.topk import kept_count, top_k, towards_top_k
from fedprune.training.straight_through import through_scores
from fedprune.types import DeviceId, Found, Local, Method, Model, Params, Trained


def lottery_jackpots(layers: Shapes, *, density: float, prior: float = 0.99, stop: int = 30) -> Method:
    """Train scores whose top k of a layer are its mask (§3.2, straight through); no weight or bias moves, ever.

    It begins with the largest |θ| of each layer: scores 1 where kept, ``prior`` where pruned (§3.3). A device sends a
    bit a weight, whether it would keep it, and statistics of batch norms. By the share v of votes, weighted by
    examples, scores go on from ``prior`` + (1 − ``prior``) v, and the mask goes towards their top k, ties by |θ|. In
    round r at most ⌊(1 − (r − 1)/stop)⁴ k⌋ weights of a layer are swapped (the short restriction, of rounds here), and
    none after ``stop``: rounds beyond let statistics settle.

    Every layer has the same density, so that a device knows k (m: theirs come from a global ranking). Scores move by
    the experiment's SGD without decay; the paper's rate is 0.1. The public code rounds the restriction up, to 1.
    """
    kept = {name: kept_count(density_in_range(density), int(np.prod(shape))) for name, shape in layers.items()}
    if not 0 <= prior < 1 or stop < 1:
        raise ValueError(f"prior {prior} is outside [0, 1), or stop {stop} below 1")

    def scored(model: Model, shares: Params) -> Model:
        scores = {f"score/{n}": (prior + (1 - prior) * v).astype(np.float32) for n, v in shares.items()}
        return model._replace(memory={**model.memory, **scores})

    def start(params: Params) -> Model:
        masks = {name: top_k(np.abs(params[name]), k) for name, k in kept.items()}
        return masked(scored(Model(params, memory={f"frozen/{n}": params[n] for n in kept}), masks), masks)

    def sends(params: Params, memory: Params) -> Params:
        return {**statistics(params), **{f"vote/{n}": top_k(memory[f"score/{n}"], k) for n, k in kept.items()}}

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        return scored(model, votes([({n: t.own[f"vote/{n}"] for n in kept}, {}, t.weight) for t in trained.values()]))

    def act(model: Model, found: Found, round: int) -> Model:
        if not 1 <= round <= stop:
            return model
        weights, share = {n: model.memory[f"frozen/{n}"] for n in kept}, (1 - (round - 1) / stop) ** 4
        order = {n: model.memory[f"score/{n}"] + 1e-9 * np.tanh(np.abs(w), dtype=float) for n, w in weights.items()}
        new = {n: towards_top_k(model.masks[n], order[n], int(share * k)) for n, k in kept.items()}
        model = masked(model._replace(params={**model.params, **weights}), new)
        return scored(model, new) if round == stop else model  # devices try what is kept from now on

    trains, reads = (tuple(f"{each}/{name}" for name in kept) for each in ("score", "frozen"))
    local = Local(through_scores(kept, "frozen/", "score/", until=stop), trains=trains, reads=reads, sends=sends)
    return Method(start, local=local, join=join, act=act)
