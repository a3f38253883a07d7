"""Criteria that look at gradients of the loss."""

import numpy as np

from fedprune.types import Tensor


def gradient(grad: Tensor) -> Tensor:
    """|∂L/∂θ|, the score by which pruned weights are grown (RigL; FedTiny, eq. 8).

    >>> gradient(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(grad)


def redundancy(rows: Tensor, grads: Tensor) -> Tensor:
    """½ cos(x, ∇L) + ½ / size(x) of each row x: high where a step downhill shrinks it, or it is small (OTOv2, §3.2).

    size(x) is the root mean square, in units of the mean over all rows: a batch norm leaves open how large those of a
    layer are. No criterion of single weights, but of whole channels, the higher the less worth keeping; +∞ at 0.

    >>> redundancy(np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [-1.0, 0.0], [1.0, 0.0]]))
    array([0.7, 0.5, inf])
    """
    norms, lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(grads, axis=1)
    products = norms * lengths
    cosine = np.divide((rows * grads).sum(1), products, out=np.zeros(len(rows)), where=products > 0)
    score: Tensor = cosine / 2 + np.divide(norms.mean() / 2, norms, out=np.full(len(rows), np.inf), where=norms > 0)
    return score


def saliency(weight: Tensor, grad: Tensor) -> Tensor:
    """|θ · ∂L/∂θ|: what the loss, to first order, would change by without θ (SNIP, eq. 6, before normalisation).

    With the flow R in the loss's place it is the synaptic saliency of SynFlow (eq. 1).

    >>> saliency(np.array([3.0, -2.0]), np.array([-0.5, 0.0]))
    array([1.5, 0. ])
    """
    return np.asarray(np.abs(weight * grad))
