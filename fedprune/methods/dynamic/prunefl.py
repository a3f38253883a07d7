"""PruneFL: masks follow the squared gradients of all weights (Jiang et al., TNNLS 2022, arXiv 1909.12326)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods.layers import (
    GRAD,
    Shapes,
    density_in_range,
    evidence,
    fractions_in_range,
    largest,
    masked,
    pruned_once,
)
from fedprune.pruning import criteria
from fedprune.pruning.pruners import refill
from fedprune.pruning.schedules import constant
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
    """Every ``period`` rounds until ``stop``, a ``fraction`` of a layer's kept weights competes with all pruned ones.

    Those with the largest g²/t of all layers together are kept, up to ``density`` (alg. 2, with the density given where
    the paper lets it follow from g²/t, as FedTiny's authors compare it). g is the gradient of all devices' examples, of
    every weight, so that devices send a dense one, which is what the method costs. A round's time is linear in the kept
    weights (§IV): t is 1 of a matrix's weight and ``convolution`` of a convolution's, 1 to 6 times as long as measured
    by the authors, sending included. Competing are the smallest |θ|. In the authors' code rounds are few steps, 50 of
    them a period, and the fraction halves every 10,000.

    The mask begins with the largest |θ| of the weights that the run starts from: the device selected for the initial
    stage is who pretrains. Not done: that stage's own adjustments by gradients. In the authors' code g² is the devices'
    sum over the steps between two adjustments, here the square of one mean over all examples.
    """
    fractions_in_range(fraction=fraction)
    if period < 1 or not convolution > 0:
        raise ValueError(
            f"period {period} is not a positive number of rounds, or convolution {convolution} not above 0"
        )
    rule = refill(criteria.magnitude, criteria.gain, constant(fraction), constant(density))
    time = {name: np.asarray(convolution if len(shape) > 2 else 1.0) for name, shape in layers.items()}

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        due = round and round % period == 0 and round <= stop
        return {GRAD: Ask("gradients", tuple(layers))} if due else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not found.get(GRAD):
            return model
        return masked(model, rule.update(model.masks, {**evidence(model, found, rule), "time": time}, round))

    return Method(pruned_once(layers, largest(density_in_range(density))).start, asks=asks, act=act)
