"""Criteria that look at gradients of the loss."""

import numpy as np

from fedprune.types import Tensor


def gradient(grad: Tensor) -> Tensor:
    """|∂L/∂θ|, the score by which pruned weights are grown (RigL; FedTiny, eq. 8).

    >>> gradient(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(grad)


def gain(grad: Tensor, time: Tensor) -> Tensor:
    """g² / t: how far the loss falls in a step, to first order, by the time that a weight takes (PruneFL, eq. 7).

    >>> gain(np.array([-2.0, 0.5]), np.array(2.0))
    array([2.   , 0.125])
    """
    return np.asarray(grad**2 / time)


def saliency(weight: Tensor, grad: Tensor) -> Tensor:
    """|θ · ∂L/∂θ|: what the loss, to first order, would change by without θ (SNIP, eq. 6, before normalisation).

    With the flow R in the loss's place it is the synaptic saliency of SynFlow (eq. 1).

    >>> saliency(np.array([3.0, -2.0]), np.array([-0.5, 0.0]))
    array([1.5, 0. ])
    """
    return np.asarray(np.abs(weight * grad))


def preserved(weight: Tensor, grad: Tensor) -> Tensor:
    """θ · ∂F/∂θ: how much of F, to first order, goes with θ; what goes below 0 is the worst kept.

    With F = ½ ‖∇L‖², whose gradient is H∇L, it is what GraSP keeps the largest of (the score of its eq. 8, negated).

    >>> preserved(np.array([3.0, -2.0]), np.array([-0.5, -1.0]))
    array([-1.5,  2. ])
    """
    return np.asarray(weight * grad)
