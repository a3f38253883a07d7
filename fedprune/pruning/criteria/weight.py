"""Criteria that look at the weights, at what they read, or at nothing."""

import numpy as np

from fedprune.types import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """|θ|, the score of magnitude pruning (Han et al., 2015).

    >>> magnitude(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(weight)


def carried(weight: Tensor, inputs: Tensor) -> Tensor:
    """|θ_ij| · ‖x_j‖, ``inputs`` the norms of what weights read: what comes through to an output (Wanda, eq. 1 (m)).

    >>> carried(np.array([-2.0, 0.5]), np.array([1.0, 8.0]))
    array([2., 4.])
    """
    return np.asarray(np.abs(weight) * inputs)


def random(noise: Tensor) -> Tensor:
    """The noise itself: a random mask. Noise is counter-based, so that both sides of a link draw it from a seed.

    >>> from fedprune.counter_rng import uniforms
    >>> here, there = (random(uniforms(7, "conv.weight", (2, 3))) for _ in range(2))
    >>> np.array_equal(here, there)
    True
    """
    return noise
