"""Random+ERK: a fixed random mask with Erdős–Rényi-kernel densities (Liu et al., 2022); a seed says all of it."""

from fedprune.methods.layers import Shapes, density_in_range, pruned_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import erk, uniform
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Method


def random_erk(layers: Shapes, *, density: float, by_erk: bool = True, seed: int = 0) -> Method:
    """A random mask kept throughout; ``by_erk = false`` gives every layer the same density."""
    by = erk(layers) if by_erk else uniform
    return pruned_once(layers, prune(criteria.random, constant(density_in_range(density)), allocate=by), seed)
