"""IMP with rewinding: tickets that go back to θ_k, not to θ₀ (Frankle et al., 2019, arXiv 1903.01611)."""

from fedprune.methods.layers import Shapes
from fedprune.methods.rewinding import falling, rewound
from fedprune.pruning.allocation import ranked
from fedprune.types import Method


def imp(layers: Shapes, *, density: float, rewind: int = 1, levels: int = 5, period: int = 4) -> Method:
    """Prune the least |θ| of all layers together after each ``period`` rounds, and go on from the weights of round k.

    k is ``rewind``, 0.1 to 7 % of training in the paper (§3); with its 20 % a level, ``levels`` is ln(density) /
    ln(0.8). Level i comes after round k + i · period, and the rounds after the last level train the ticket. Not done:
    the learning rate is the round's and does not go back to that of round k.
    """
    rule = falling(density, levels, lambda params, level: ranked())
    return rewound(layers, rule, levels, period, to=rewind)
