"""Random+ERK: a fixed random mask with Erdős–Rényi-kernel densities (Liu et al., 2022); a seed says all of it."""

from fedprune.methods import Shapes, density_in_range
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import erk, uniform
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.training import evidence
from fedprune.types import Masks, Method, Params


def random_erk(layers: Shapes, *, density: float, by_erk: bool = True, seed: int = 0) -> Method:
    """A random mask kept throughout; ``by_erk = false`` gives every layer the same density."""
    pruner = prune(criteria.random, constant(density_in_range(density)), allocate=erk(layers) if by_erk else uniform)

    def candidates(weights: Params) -> list[Masks]:
        return [pruner.update(masks.ones_like(layers), {"noise": evidence.noise(layers, seed)}, 0)]

    return Method(candidates)
