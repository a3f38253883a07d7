"""Optimal brain surgery on a layer: what its outputs lose with some inputs, and weights that make up for it.

All of it follows from the layer's weight W, (outputs, fan_in), and the Gram matrix H = XᵀX of its inputs, (fan_in,
fan_in): outputs change by tr(ΔW H ΔWᵀ), summed over outputs and examples (Hassibi & Stork, 1993; SparseGPT, 2023).
"""

import numpy as np

from fedprune.types import FloatTensor, Tensor


def damped(gram: Tensor, damping: float = 0.01) -> FloatTensor:
    """H + damping · mean(diag H) · I, float64: a part of the weights' own change counts as well, so H has an inverse.

    >>> damped(np.array([[3.0, 1.0], [1.0, 1.0]]), 0.5)
    array([[4., 1.],
           [1., 2.]])
    """
    whole = np.asarray(gram, np.float64)
    level = damping * float(np.diag(whole).mean()) or 1.0  # nothing was read, so nothing is lost
    return whole + level * np.eye(len(whole))


def losses(weight: Tensor, gram: Tensor, columns: Tensor) -> FloatTensor:
    """What outputs change by where a unit's columns are removed and all others make up for it as well as they can.

    ``columns`` is (units, k); of each unit tr(W_Q ([H⁻¹]_QQ)⁻¹ W_Qᵀ), Q its columns, as a part of the outputs'
    tr(W H Wᵀ), so that layers compare. For single columns this is OBS's Σ w_q² / [H⁻¹]_qq. H must have an inverse.

    >>> losses(np.array([[1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 6.0]]), np.array([[0], [1]]))
    array([0.25, 0.75])
    """
    inverse = np.linalg.inv(gram)
    own = inverse[columns[:, :, None], columns[:, None, :]]  # (units, k, k)
    removed = np.moveaxis(weight[:, columns], 0, -1).astype(np.float64)  # (units, k, outputs)
    lost = np.sum(removed * np.linalg.solve(own, removed), axis=(1, 2))
    return np.asarray(lost / (np.einsum("oi,ij,oj->", weight, gram, weight) or 1.0))


def refitted(weight: Tensor, gram: Tensor, kept: Tensor) -> Tensor:
    """The weight without its other columns whose outputs are nearest: W H_·K (H_KK)⁻¹ in the columns K, 0 elsewhere.

    ``kept`` is (fan_in,) booleans. It is the OBS update of all removals at once, in the type of ``weight``. H must have
    an inverse.

    >>> refitted(np.array([[1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 6.0]]), np.array([True, False]))
    array([[1.5, 0. ]])
    """
    fitted = np.zeros(weight.shape, weight.dtype)
    targets = (weight.astype(np.float64) @ gram[:, kept]).T
    fitted[:, kept] = np.linalg.solve(gram[np.ix_(kept, kept)], targets).T
    return fitted
