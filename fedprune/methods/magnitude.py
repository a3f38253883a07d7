"""Static magnitude pruning: one global threshold on the pretrained weights (Global MP; Gupta et al., 2022)."""

from fedprune.methods import Shapes, density_in_range
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Masks, Method, Params


def magnitude(layers: Shapes, *, density: float, floor: float = 0.0) -> Method:
    """Keep the largest |θ| of all layers together; ``floor`` is the least density of a layer (their threshold MT)."""
    if floor > density_in_range(density):
        raise ValueError(f"floor {floor} is above the density {density}")
    pruner = prune(criteria.magnitude, constant(density), allocate=ranked(floor=floor))

    def candidates(weights: Params) -> list[Masks]:
        return [pruner.update(masks.ones_like(layers), {"weight": weights}, 0)]

    return Method(candidates)
