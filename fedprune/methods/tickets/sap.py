"""SAP: a net is pruned as far as its weights' inequality allows (Diao et al., ICLR 2023, arXiv 2302.05601)."""

from fedprune.methods.layers import Shapes
from fedprune.methods.rewinding import rewound
from fedprune.pruning.compressible import Limits, shed
from fedprune.types import Method


def sap(
    layers: Shapes, *, p: float = 0.5, q: float = 1.0, eta: float = 0.0, gamma: float = 1.0, beta: float = 0.9,
    scope: str = "layer", levels: int = 15, period: int = 4,
) -> Method:  # fmt: skip
    """Prune the least |θ| after each ``period`` rounds, ``levels`` times, and go on from θ₀ (alg. 1).

    Of d weights that a layer has left, ⌊d · min(γ (1 − m/d), β)⌋ go, where m, a bound by their PQ index, says how many
    are needed (theorem 2 (m): `pruning.compressible`). So no density is asked for: layers and levels each lose what
    they can spare, and nothing where all that is left is of one size. ``scope`` is whose weights are compared: a
    "neuron"'s, which are a row, a "layer"'s, or all of them, "global". The paper has (p, q) of (0.5, 1) and of (1, 2),
    and 15 to 30 levels (m). Devices know nothing of it: the server looks at averaged weights, and no byte more travels.
    Not done: leaving out biases and batch norms alone, since the experiment says which layers are pruned at all.
    """
    rule = shed(Limits(p, q, eta, gamma, beta), scope)
    return rewound(layers, lambda params, level: rule, levels, period)
