"""SynFlow: iterative conservation of synaptic flow, without data (Tanaka et al., NeurIPS 2020, arXiv 2006.05467)."""

from fedprune.measures.flow import Thinned
from fedprune.methods.layers import Shapes, density_in_range, measured_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant, exponential
from fedprune.types import Ask, Method


def synflow(layers: Shapes, *, density: float, iterations: int = 100) -> Method:
    """Keep the largest |θ · ∂R/∂θ| of all layers together (eq. 2 and 3), in so many steps, before training (alg. 1).

    Step k of n keeps density^(k/n), R measured anew under the masks of the step before. It needs weights and no
    example, so that each device takes all steps but the last by itself, and one ask is all that travels, whatever n.
    Not done: weights drawn anew for it. 1 iteration is the paper's single-shot ablation, which may empty a layer.
    """
    if not 1 <= iterations <= 1000:
        raise ValueError(f"iterations {iterations} is outside 1 to 1000")
    down = exponential(1.0, density_in_range(density), end=iterations)
    before = tuple(down(step) for step in range(1, iterations))
    rule = prune(criteria.saliency, constant(density), allocate=ranked())
    return measured_once(layers, rule, Ask("flow", Thinned(tuple(layers), before)))
