"""PDP: masks without parameters of their own, soft while a net is trained (Cho et al., NeurIPS 2023, 2305.11203)."""

import numpy as np

from fedprune.methods.layers import Shapes, dense, density_in_range, masked
from fedprune.pruning.patterns import few_of, halfway, n_of_m
from fedprune.pruning.schedules import linear
from fedprune.pruning.topk import kept_count, top_k
from fedprune.training.soft_masks import through_soft_masks
from fedprune.types import BoolTensor, Found, Local, Method, Model, Tensor


def pdp(
    layers: Shapes, *, density: float, temperature: float = 0.25, ramp: int = 0, stop: int = 10, of: int = 0,
    rows: bool = False,
) -> Method:  # fmt: skip
    """Train θ ⊙ m(θ), where m is a half half-way between the least kept |θ| and the largest pruned (eq. 3 (m)).

    The kept share of a layer falls along a line to ``density`` in round ``ramp``, the paper's ε a step, by default
    half-way to ``stop``; after that the server keeps what has m ≥ ½, and rounds beyond train it. Only weights travel:
    devices find m from them and the round (`training.soft_masks`), and its gradient lets what is pruned come back. With
    ``of`` M it is N:M, N = ``density`` · M of every M inputs, without a ramp; with ``rows`` whole outputs go, by their
    mean |θ|.

    Taken from a third party's code (3): no gradient of the threshold t. Not as there: τ is ``temperature`` · t² and not
    1e-4 (m), which that is where t is 0.02: at 1e-4 a perceptron, with t of 0.2, diverged here; and every layer has the
    same density, where a global ranking may decide (m).
    """
    group = few_of(density_in_range(density), of)
    if of and (rows or not group):
        raise ValueError(f"density {density} of {of} is no N:M, or rows are to go besides")
    ramp = ramp or -(-stop // 2)
    if not temperature > 0 or not 1 <= ramp <= stop:
        raise ValueError(f"temperature {temperature} is not above 0, or ramp {ramp} not from 1 to stop {stop}")
    along = linear(1.0, density, end=ramp)

    def threshold(name: str, sizes: Tensor, round: int) -> Tensor | float:
        kept = kept_count(along(round), sizes.size)
        if round > stop or (kept == sizes.size and not of):
            return 0.0
        return halfway(sizes, group, of) if of else float(-np.sort(-sizes, axis=None)[kept - 1 : kept + 1].mean())

    def hard(weight: Tensor) -> BoolTensor:
        if of:
            return n_of_m(np.abs(weight), group, of)
        if not rows:
            return top_k(np.abs(weight), kept_count(density, weight.size))
        means = np.abs(weight).reshape(len(weight), -1).mean(1)
        best = top_k(means, kept_count(density, len(means))).reshape(-1, *[1] * (weight.ndim - 1))
        return np.broadcast_to(best, weight.shape).copy()

    def act(model: Model, found: Found, round: int) -> Model:
        return masked(model, {name: hard(model.params[name]) for name in layers}) if round == stop else model

    return Method(
        dense(layers), local=Local(through_soft_masks(tuple(layers), threshold, temperature, rows=rows)), act=act
    )
