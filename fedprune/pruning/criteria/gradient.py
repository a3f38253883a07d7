"""Criteria that look at gradients of the loss."""

import numpy as np

from fedprune.types import Tensor


def gradient(grad: Tensor) -> Tensor:
    """|∂L/∂θ|, the score by which pruned weights are grown (RigL; FedTiny, eq. 8)."""
    return np.abs(grad)
