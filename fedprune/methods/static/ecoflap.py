"""ECoFLaP: layers share by how the loss feels them, without gradients (Sung, Yoon & Bansal, ICLR 2024, 2310.02998)."""

import numpy as np

from fedprune.measures.probes import Probes
from fedprune.methods.layers import Shapes, density_in_range
from fedprune.methods.reading import best_of_outputs, norms, scored_once
from fedprune.pruning.allocation import in_proportion
from fedprune.types import Ask, Found, Masks, Method, Model

_SLOPES = "slopes"


def ecoflap(
    layers: Shapes, *, density: float, epsilon: float = 1e-3, probes: int = 1, examples: int = 128,
    floor: float = 0.4, magnitude: bool = True, seed: int = 0,
) -> Method:  # fmt: skip
    """Keep so many weights of a layer as the loss feels it, and of each output those that Wanda keeps, before training.

    A layer's score is |L(θ + εz) − L(θ − εz)| / 2ε (eq. 5 (m)), z drawn by the seed in that layer alone, in the mean
    over ``probes``, times its ‖θ‖₁; or, without ``magnitude``, times how many weights it has. It takes forward passes
    over at most so many ``examples`` of a device, and a number a layer travels. Kept weights are ∝ scores, after every
    layer has ``floor`` of what it would have if all were alike. Not as there: z is ±1 and not normal, so that all
    devices draw the same bits; a layer is a block; the floor goes with the density, where there no layer lost more than
    80 % (m), at a density of a half.
    """
    if not epsilon > 0 or probes < 1 or examples < 1:
        raise ValueError(f"epsilon {epsilon} is not above 0, or probes {probes} or examples {examples} below 1")
    if not 0 <= floor <= 1:
        raise ValueError(f"floor {floor} is outside [0, 1]")
    density_in_range(density)
    asked = Probes(tuple(layers), epsilon, probes, seed, examples)

    def choose(model: Model, found: Found) -> Masks:
        felt = np.abs(found[_SLOPES]["slopes"]).mean(1)
        sizes = {
            n: float(np.abs(model.params[n]).sum(dtype=np.float64)) if magnitude else mask.size
            for n, mask in model.masks.items()
        }
        budgets = {name: float(each) * sizes[name] for name, each in zip(asked.layers, felt, strict=True)}
        return best_of_outputs(model, density, norms(model, found), in_proportion(budgets, floor=floor))

    return scored_once(layers, {_SLOPES: Ask("probes", asked)}, choose)
