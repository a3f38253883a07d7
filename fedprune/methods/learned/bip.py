"""BiP: a mask goes downhill on the loss of weights that answer it (Zhang et al., NeurIPS 2022, arXiv 2210.04092)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods.layers import GRAD, Shapes, above_zero, density_in_range, from_to, masked
from fedprune.methods.rewinding import named, unnamed
from fedprune.pruning import masks
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Ask, Found, Masks, Method, Model, Params, Tensor

_SCORE, _WHOLE = "score/", "whole/"


def bip(layers: Shapes, *, density: float, beta: float = 0.01, gamma: float = 1e4, stop: int = 10) -> Method:
    """Alternate rounds of training under a mask with a step of the mask's scores, and keep the best of all layers.

    Below, devices train m ⊙ θ; above, m̃ ← m̃ − β dℓ/dm, of which the top k are the next m (eq. 8 (m)), from m̃ = |θ| /
    max |θ|, the one-shot answer, until round ``stop``. Devices send ∂ℓ/∂z at z = m ⊙ θ of every position, pruned ones
    too, merged exactly. What is pruned keeps its θ on the server, and comes back with it. Not as there: a step above
    is for a round below, not for a batch, so that it is of length 1 a score (root mean square) times ``beta``, which
    falls along a line; both levels see the same examples, not two disjoint batches; the L2 below is the experiment's
    weight decay, of kept weights, and ``gamma`` that of dℓ/dm alone, as in the authors' code (m). Not done: filters.
    """
    above_zero(beta=beta, gamma=gamma)
    from_to("stop", stop, 1)
    best = prune(lambda score: score, constant(density_in_range(density)), allocate=ranked())

    def top(scores: Params) -> Masks:
        return best.update(masks.ones_like(layers), {"score": scores}, 0)

    def start(params: Params) -> Model:
        sizes = {name: np.abs(params[name]) for name in layers}
        scores = {n: each / (max(float(s.max()) for s in sizes.values()) or 1.0) for n, each in sizes.items()}
        memory = {**named(_SCORE, scores), **named(_WHOLE, {name: params[name] for name in layers})}
        return masked(Model(params, memory=memory), top(scores))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {GRAD: Ask("gradients", tuple(layers))} if 1 <= round <= stop else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not asks(model, round, {}) or not found.get(GRAD):
            return model
        grads, kept = found[GRAD], model.masks
        whole = {name: np.where(kept[name], model.params[name], w) for name, w in unnamed(_WHOLE, model.memory).items()}
        slopes = {name: slope(whole[name], kept[name], grads[name], gamma) for name in layers}
        length = np.sqrt(np.mean(np.concatenate([each.ravel() for each in slopes.values()]) ** 2)) or 1.0
        step = beta * (1 - (round - 1) / stop) / length
        before = unnamed(_SCORE, model.memory)
        scores = {name: (before[name] - step * slopes[name]).astype(np.float32) for name in layers}
        memory = {**model.memory, **named(_SCORE, scores), **named(_WHOLE, whole)}
        return masked(model._replace(params={**model.params, **whole}, memory=memory), top(scores))

    return Method(start, asks=asks, act=act)


def slope(weight: Tensor, mask: Tensor, grad: Tensor, gamma: float) -> Tensor:
    """dℓ(m ⊙ θ*(m)) / dm = ∂ℓ/∂z ⊙ (θ − m ⊙ ∂ℓ/∂z / γ): what a mask does itself, and through weights that answer it.

    Exact where ℓ is linear in z and θ* minimises ℓ(m ⊙ θ) + γ/2 ‖θ‖²; else without ℓ's second derivatives (prop. 1
    (m)).

    >>> slope(np.array([2.0, 2.0]), np.array([True, False]), np.array([0.5, -0.5]), gamma=0.5)
    array([ 0.5, -1. ])
    """
    return np.asarray(grad * (weight - mask * grad / gamma))
