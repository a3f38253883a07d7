"""Criteria that look at the weights alone, or at nothing."""

import numpy as np

from fedprune.types import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|θ|, the score of magnitude pruning (Han et al., 2015)."""
    return np.abs(weight)


def random(noise: Tensor) -> Tensor:
    """The noise itself: a random mask. Noise is counter-based, so that both sides of a link draw it from a seed."""
    return noise
