"""GBLM-Pruner: Wanda with gradients (Das et al., Beyond Size, 2023, arXiv 2311.04902)."""

from collections.abc import Mapping

import numpy as np

from fedprune.measures.gradient_squares import Squares
from fedprune.methods.layers import Shapes
from fedprune.methods.reading import best_of_outputs, norms, pattern, scored_once
from fedprune.types import Ask, Found, Masks, Method, Model

_SLOPES = "slopes"


def gblm_pruner(layers: Shapes, *, density: float, alpha: float = 100.0, examples: int = 128, of: int = 0) -> Method:
    """Keep of each output's weights the largest |θ_ij| · (‖x_j‖ + α ‖g_ij‖) (eq. 4 (m)), before training.

    ‖x_j‖ is Wanda's, which this is where ``alpha`` is 0; g_ij are ∂L/∂θ_ij of single examples, at most so many
    ``examples`` of each device, and only means of their squares travel. With ``of`` M it is N:M. (m): that both norms
    are roots of means over examples, so that α means the same however many there are. Not as there: batch norms go by
    their running statistics; all layers see the inputs of the dense model. Small nets want an α near 10.
    """
    if not alpha >= 0 or examples < 1:
        raise ValueError(f"alpha {alpha} is below 0, or examples {examples} below 1")
    best = pattern(density, of)
    more: Mapping[str, Ask] = {_SLOPES: Ask("gradient_squares", Squares(tuple(layers), examples))} if alpha else {}

    def choose(model: Model, found: Found) -> Masks:
        inputs = norms(model, found)
        if alpha:
            inputs = {name: value + alpha * np.sqrt(found[_SLOPES][name]) for name, value in inputs.items()}
        return best_of_outputs(model, density, inputs, best=best)

    return scored_once(layers, more, choose)
