"""SNIP: single-shot pruning by connection sensitivity (Lee, Ajanthan and Torr, ICLR 2019, arXiv 1810.02340)."""

from fedprune.methods.layers import Shapes, density_in_range, measured_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.types import Ask, Method


def snip(layers: Shapes, *, density: float, floor: float = 0.0) -> Method:
    """Keep the largest |θ · ∂L/∂θ| of all layers together (eq. 5; alg. 1), once, before training.

    The gradient is that of all devices' examples, merged by their number, where the paper takes one batch; so scores
    are the pooled ones, to batch norm. Dividing them by their sum (eq. 5) changes no order. ``floor`` is the least
    density of a layer, 0 in the paper. Not done: weights drawn anew for it, since a run starts from those it has.
    """
    if floor > density_in_range(density):
        raise ValueError(f"floor {floor} is above the density {density}")
    rule = prune(criteria.saliency, constant(density), allocate=ranked(floor=floor))
    return measured_once(layers, rule, Ask("gradients", tuple(layers)))
