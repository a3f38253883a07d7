"""SSFL: one mask from the devices' own saliencies, before training (Ohib et al., 2024, arXiv 2405.09037)."""

from fedprune.methods.layers import GRAD, Shapes, density_in_range, measured_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Ask, Found, Method, Model


def ssfl(layers: Shapes, *, density: float) -> Method:
    """Keep the largest Σ_k p_k |θ ⊙ ∂L_k/∂θ| of all layers together, p_k a device's share of the examples (§4).

    Where SNIP takes the gradient of all examples, in which devices of unlike data cancel out, this takes each device's
    saliency by itself, so that what matters to one of them counts. (m): the shares p_k. Not as there: a device's
    gradient is that of all of its examples, not of one batch; and weights are those that the run starts from.
    """
    rule = prune(criteria.saliency, constant(density_in_range(density)), allocate=ranked())
    once = measured_once(layers, rule, Ask("gradients", tuple(layers), apart=True))

    def act(model: Model, found: Found, round: int) -> Model:
        told = [each for each in found.get(GRAD, {}).values() if each]
        total = sum(each["examples"] for each in told)
        # |θ ⊙ g| is |θ| ⊙ |g|, so that the mean of |g| in the place of a gradient gives that of the saliencies
        means = {name: sum(abs(each[name]) * (each["examples"] / total) for each in told) for name in layers if told}
        return once.act(model, {GRAD: means}, round)

    return once._replace(act=act)
