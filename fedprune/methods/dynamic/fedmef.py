"""FedMef: weights give way before they are pruned, activations are pruned too (Huang et al., CVPR 2024, 2403.14737)."""

from functools import partial

from fedprune.methods.layers import Shapes, adjusted, density_in_range, fractions_in_range, scattered
from fedprune.pruning import criteria
from fedprune.pruning.pruners import every, regrow
from fedprune.pruning.schedules import cosine
from fedprune.training.activations import pruned_activations
from fedprune.training.extrusion import extruding
from fedprune.types import Local, Method


def fedmef(
    layers: Shapes, *, density: float, period: int = 10, stop: int = 100, fraction: float = 0.4, penalty: float = 1e-4,
    budget: int = 100, rate: float = 0.0, activations: float = 0.5, seed: int = 0,
) -> Method:  # fmt: skip
    """Every ``period`` rounds, swap fraction/2 · (1 + cos(πr/stop)) of each layer's kept weights, extruded before.

    In such a round devices minimise L + ``penalty`` ‖θ_low‖² over the weights that would go, for a ``budget`` of steps
    at a learning rate raised up to ``rate`` (eq. 2 to 5: `training.extrusion`); the server then drops the smallest
    averaged |θ| and grows, from 0, by the devices' averaged gradients, of which each sends as many as a layer grows.
    Masks begin at random, of Erdős–Rényi-kernel densities. In every round layers keep ``activations`` of their inputs,
    the largest, for the backward pass (scaled activation pruning, §3.3). ``penalty`` 0 is without extrusion,
    ``activations`` 1 without their pruning.

    (m): λ, for thousands of steps, and α; the budget, which is in steps of a round here since devices' epochs differ;
    that what the server drops is chosen anew after averaging; η₀, by default never above the round's learning rate.
    Not done: normalised sparse convolutions in the place of batch norm, since a net is the user's; its batch norms
    centre what is pruned. Memory is not smaller by it where a rectifier, as torch has it, keeps the same values.
    """
    fractions_in_range(fraction=fraction)
    if not 0 < activations <= 1:
        raise ValueError(f"activations {activations} is outside (0, 1]")
    if penalty < 0 or rate < 0 or budget < 1:
        raise ValueError(f"penalty {penalty} or rate {rate} is below 0, or budget {budget} below 1")
    along = cosine(fraction, end=stop)
    asks, act = adjusted(every(period, regrow(criteria.magnitude, criteria.gradient, along), until=stop), seed)

    def swapped(round: int) -> float:
        return along(round) if round % period == 0 and round <= stop else 0.0

    local = Local(
        optimiser=extruding(tuple(layers), swapped, penalty, budget, rate) if penalty else None,
        around=partial(pruned_activations, keep=activations) if activations < 1 else None,
    )
    return Method(scattered(layers, density_in_range(density), seed), local=local, asks=asks, act=act)
