"""GraSP: the weights that keep gradients flowing (Wang, Zhang and Grosse, ICLR 2020, arXiv 2002.07376)."""

from collections.abc import Mapping

from fedprune.measures.curvature import Along
from fedprune.methods.layers import GRAD, Shapes, density_in_range, measured_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Ask, Found, Method, Model


def grasp(layers: Shapes, *, density: float, floor: float = 0.0, temperature: float = 200.0) -> Method:
    """Keep the largest θ ⊙ Hg of all layers together: the least of S(−θ) = −θ ⊙ Hg (eq. 8; alg. 1), before training.

    Logits are divided by ``temperature`` for it. g is the gradient of all devices' examples, merged first; devices then
    say H_k g along the merged one, whose mean by examples is H g, to batch norm: H_k g_k of their own would not be. The
    paper takes ten examples a class. ``floor`` is the least density of a layer, 0 in the paper. Not done: weights drawn
    anew for it, since a run starts from those it has.
    """
    if floor > density_in_range(density):
        raise ValueError(f"floor {floor} is above the density {density}")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    rule = prune(criteria.preserved, constant(density), allocate=ranked(floor=floor))
    first = Ask("curvature", Along(tuple(layers), temperature))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        if round:
            return {}
        if "slope" not in found:
            return {"slope": first._replace(masks=model.masks)}
        second = first.args._replace(direction=found["slope"])
        return {GRAD: first._replace(args=second, masks=model.masks)} if found["slope"] else {}

    return measured_once(layers, rule, first)._replace(asks=asks)
