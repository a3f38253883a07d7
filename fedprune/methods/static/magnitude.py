"""Static magnitude pruning: one global threshold on the pretrained weights (Global MP; Gupta et al., 2022)."""

from fedprune.methods.layers import Shapes, density_in_range, pruned_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Method


def magnitude(layers: Shapes, *, density: float, floor: float = 0.0) -> Method:
    """Keep the largest |θ| of all layers together; ``floor`` is the least density of a layer (their threshold MT)."""
    if floor > density_in_range(density):
        raise ValueError(f"floor {floor} is above the density {density}")
    return pruned_once(layers, prune(criteria.magnitude, constant(density), allocate=ranked(floor=floor)))
