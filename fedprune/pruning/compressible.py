"""How unequal weights are in size, and how many of them that says may go: the PQ index (Diao et al., ICLR 2023)."""

from typing import NamedTuple

import numpy as np

from fedprune.pruning.topk import top_k
from fedprune.types import BoolTensor, Evidence, Masks, Pruner, Tensor


class Limits(NamedTuple):
    """What turns an index into a number of weights; the names are the paper's."""

    p: float = 0.5
    q: float = 1.0
    eta: float = 0.0
    gamma: float = 1.0
    beta: float = 0.9


def pq_index(weights: Tensor, p: float = 0.5, q: float = 1.0) -> float:
    """I = 1 − d^(1/q − 1/p) ‖w‖_p / ‖w‖_q of d weights, p < q: 0 where all are of one size, 0 to 1 − d^(1/q − 1/p).

    The largest is that of one weight beside zeros. It does not change with the weights' scale. Where there are none, or
    only zeros, it is 0.

    >>> [pq_index(np.array(sizes)) for sizes in ([5.0, 0.0, 0.0, 0.0], [4.0, -4.0, 0.0, 0.0], [2.0, -2.0])]
    [0.75, 0.5, 0.0]
    """
    sizes = np.abs(weights.ravel(), dtype=np.float64)
    largest = sizes.max(initial=0.0)
    if not largest:
        return 0.0
    sizes /= largest  # no power overflows
    ratio = np.mean(sizes**p) ** (1 / p) / np.mean(sizes**q) ** (1 / q)
    return max(0.0, 1 - float(ratio))


def spare(weights: Tensor, limits: Limits) -> int:
    """How many of d weights may go: ⌊d · min(γ (1 − m/d), β)⌋, m = d (1 + η)^(−q/(q−p)) (1 − I)^(pq/(q−p)), I theirs.

    At least m of them are needed where what is lost is at most η of what stays, in the q-norm to the power q.

    >>> spare(np.array([9.0, 1.0, 1.0, -1.0]), Limits()), spare(np.ones(4), Limits())
    (1, 0)
    """
    p, q = limits.p, limits.q
    kept = (1 + limits.eta) ** (-q / (q - p)) * (1 - pq_index(weights, p, q)) ** (p * q / (q - p))
    return int(weights.size * min(max(0.0, limits.gamma * (1 - kept)), limits.beta) * (1 + 1e-9))


def shed(limits: Limits, scope: str) -> Pruner:
    """Drop the least |θ| of every "neuron", every "layer" or, "global", of all of them, as many as those can spare.

    A neuron's weights are a row. ValueError for another scope, and for limits that are none.

    >>> masks, weights = {"w": np.ones((2, 4), bool)}, {"w": np.array([[9.0, 1, 1, 1], [2, 2, 2, 2]])}
    >>> shed(Limits(), "neuron").update(masks, {"weight": weights}, 1)["w"].tolist()
    [[True, True, True, False], [True, True, True, True]]
    """
    if scope not in ("neuron", "layer", "global"):
        raise ValueError(f"scope {scope!r} is not one of neuron, layer, global")
    if not 0 < limits.p < limits.q:
        raise ValueError(f"p {limits.p} is not between 0 and q, {limits.q}")
    for name in ("eta", "gamma"):
        if not getattr(limits, name) >= 0:
            raise ValueError(f"{name} {getattr(limits, name)} is below 0")
    if not 0 <= limits.beta < 1:
        raise ValueError(f"beta {limits.beta} is outside [0, 1)")

    def thinned(weight: Tensor, alive: BoolTensor) -> BoolTensor:
        left = int(np.count_nonzero(alive)) - spare(weight[alive], limits)
        return top_k(np.where(alive, np.abs(weight), -np.inf), left)

    def of_layer(weight: Tensor, alive: BoolTensor) -> BoolTensor:
        if scope == "layer":
            return thinned(weight, alive)
        return np.stack([thinned(*row) for row in zip(weight, alive, strict=True)])

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        weights = evidence["weight"]
        if scope != "global":
            return {name: of_layer(weights[name], mask) for name, mask in masks.items()}
        flat = [np.concatenate([each[name].ravel() for name in masks]) for each in (weights, masks)]
        parts = np.split(thinned(*flat), np.cumsum([mask.size for mask in masks.values()])[:-1])
        return {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}

    return Pruner(frozenset({"weight"}), update)
