"""PruneFL: masks follow the squared gradients of all weights (Jiang et al., TNNLS 2022, arXiv 1909.12326)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods.layers import GRAD, Shapes, density_in_range, evidence, fractions_in_range, masked, pruned_once
from fedprune.pruning import criteria
from fedprune.pruning.allocation import erk
from fedprune.pruning.pruners import prune, refill
from fedprune.pruning.schedules import constant, cosine
from fedprune.types import Ask, Found, Method, Model


def prunefl(
    layers: Shapes,
    *,
    density: float,
    period: int = 10,
    stop: int = 100,
    fraction: float = 0.3,
    convolution: float = 2.0,
) -> Method:
    """Every ``period`` rounds, α/2 · (1 + cos(πr/stop)) of a layer's kept weights compete with all that are pruned.

    Competing are the smallest |θ|; kept are the largest g²/t of all layers together, up to ``density``, which is given
    here where the paper lets it follow from g²/t (alg. 2). g is the gradient of all devices' examples, of every weight,
    so that devices send a dense one, which is what the method costs. A round's time is linear in the kept weights
    (§IV): t is 1 of a matrix's weight and ``convolution`` of a convolution's, 1 to 6 times as long by the coefficients
    in the authors' code. There g² is the devices' sum over the steps between two adjustments, here the square of one
    mean; α, ``fraction``, halves every 10,000 rounds; FedTiny's authors compare it with the cosine.

    The mask begins, as theirs, with the largest |θ| of each layer at Erdős–Rényi-kernel densities, of the weights that
    the run starts from: the device selected for the paper's initial stage is who pretrains, and that stage's own
    adjustments by gradients are not done. From the largest |θ| of all layers, and with an α that stays, layers starved:
    digits at density 0.02 fell to 43 % in three seeds' mean.
    """
    fractions_in_range(fraction=fraction)
    if period < 1 or not convolution > 0:
        raise ValueError(
            f"period {period} is not a positive number of rounds, or convolution {convolution} not above 0"
        )
    first = prune(criteria.magnitude, constant(density_in_range(density)), allocate=erk(layers))
    rule = refill(criteria.magnitude, criteria.gain, cosine(fraction, end=stop), constant(density))
    time = {name: np.asarray(convolution if len(shape) > 2 else 1.0) for name, shape in layers.items()}

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        due = round and round % period == 0 and round < stop
        return {GRAD: Ask("gradients", tuple(layers))} if due else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not found.get(GRAD):
            return model
        return masked(model, rule.update(model.masks, {**evidence(model, found, rule), "time": time}, round))

    return Method(pruned_once(layers, first).start, asks=asks, act=act)
