"""Criteria that look at gradients of the loss."""

import numpy as np

from fedprune.types import Tensor


def gradient(grad: Tensor) -> Tensor:
    """|∂L/∂θ|, the score by which pruned weights are grown (RigL; FedTiny, eq. 8).

    >>> gradient(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(grad)
