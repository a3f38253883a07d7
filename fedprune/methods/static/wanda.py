"""Wanda: weights by activations (Sun et al., A Simple and Effective Pruning Approach for LLMs, 2023, 2306.11695)."""

from fedprune.methods.layers import Shapes
from fedprune.methods.reading import best_of_outputs, norms, pattern, scored_once
from fedprune.types import Method


def wanda(layers: Shapes, *, density: float, of: int = 0) -> Method:
    """Keep of each output's weights the largest |θ_ij| · ‖x_j‖ (eq. 1 (m)), before training; all layers lose alike.

    ‖x_j‖ is over all devices' training examples, of which only moments travel and are merged exactly; of a convolution
    x_j is what a place of its kernel reads, at all positions. With ``of`` M it is N:M, N = ``density`` · M of every M
    inputs. Of layers whose inputs cannot be followed, such as attention's first projection, ‖x_j‖ is 1. Not as there:
    all layers see the inputs of the dense model, where there of one pruned up to them; what a layer's density leaves
    over, less than a weight an output, goes to the best of all its outputs.
    """
    best = pattern(density, of)
    return scored_once(layers, {}, lambda model, found: best_of_outputs(model, density, norms(model, found), best=best))
