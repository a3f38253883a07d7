"""Optimal brain surgery on a layer: what its outputs lose with some inputs, and weights that make up for it.

All of it follows from the layer's weight W, (outputs, fan_in), and the Gram matrix H = XᵀX of its inputs, (fan_in,
fan_in): outputs change by tr(ΔW H ΔWᵀ), summed over outputs and examples (Hassibi & Stork, 1993; SparseGPT, 2023).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedprune.types import BoolTensor, FloatTensor, Tensor


def damped(gram: Tensor, damping: float = 0.01) -> FloatTensor:
    """H + damping · mean(diag H) · I, float64: a part of the weights' own change counts as well, so H has an inverse.

    >>> damped(np.array([[3.0, 1.0], [1.0, 1.0]]), 0.5)
    array([[4., 1.],
           [1., 2.]])
    """
    whole = np.asarray(gram, np.float64)
    level = damping * float(np.diag(whole).mean()) or 1.0  # nothing was read, so nothing is lost
    return whole + level * np.eye(len(whole))


class Reader(NamedTuple):
    """A layer that reads units, such as channels."""

    weight: Tensor
    """(outputs, fan_in)."""
    gram: Tensor
    """(fan_in, fan_in), with an inverse."""
    columns: Tensor
    """(units, k) columns of the weight that read each unit."""


def losses(reader: Reader) -> FloatTensor:
    """What outputs change by where a unit is removed and all others make up for it as well as they can, (units,).

    tr(W_Q ([H⁻¹]_QQ)⁻¹ W_Qᵀ), Q the unit's columns, as a part of the outputs' tr(W H Wᵀ), so that layers compare. For
    single columns this is OBS's Σ w_q² / [H⁻¹]_qq.

    >>> losses(Reader(np.array([[1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 6.0]]), np.array([[0], [1]])))
    array([0.25, 0.75])
    """
    return _losses(reader.weight, np.linalg.inv(reader.gram), reader.columns) / _energy(reader)


def best_units(readers: Sequence[Reader], count: int) -> BoolTensor:
    """The ``count`` units that are left where the one of the least loss, summed over readers, goes one after the other.

    All others make up for each before the next is chosen, so that of two units that say the same one stays. Ties go by
    position, and what more units keep holds all that fewer keep. ValueError where nothing reads them.

    >>> same = np.array([[2.0, 2.0, 0.0], [2.0, 2.1, 0.0], [0.0, 0.0, 1.0]])
    >>> best_units([Reader(np.array([[1.0, 2.0, 4.0]]), same, np.array([[0], [1], [2]]))], 1)
    array([False,  True, False])
    """
    if not readers:
        raise ValueError("no layer reads these units")
    kept = np.ones(len(readers[0].columns), np.bool_)
    weights = [reader.weight.astype(np.float64) for reader in readers]
    inverses = [np.linalg.inv(reader.gram) for reader in readers]
    energies = [_energy(reader) for reader in readers]
    while np.count_nonzero(kept) > count:
        alive, lost = np.flatnonzero(kept), np.zeros(int(np.count_nonzero(kept)))
        for reader, weight, inverse, energy in zip(readers, weights, inverses, energies, strict=True):
            lost += _losses(weight, inverse, reader.columns[alive]) / energy
        gone = alive[np.argmin(lost)]
        kept[gone] = False
        for reader, weight, inverse in zip(readers, weights, inverses, strict=True):
            columns = reader.columns[gone]
            step = np.linalg.solve(inverse[np.ix_(columns, columns)], inverse[columns])  # (k, fan_in)
            weight -= weight[:, columns] @ step
            inverse -= inverse[:, columns] @ step
    return kept


def _losses(weight: Tensor, inverse: Tensor, columns: Tensor) -> FloatTensor:
    own = inverse[columns[:, :, None], columns[:, None, :]]  # (units, k, k)
    removed = np.moveaxis(weight[:, columns], 0, -1).astype(np.float64)  # (units, k, outputs)
    return np.asarray(np.sum(removed * np.linalg.solve(own, removed), axis=(1, 2)))


def _energy(reader: Reader) -> float:
    weight = reader.weight.astype(np.float64)
    return float(np.sum((weight @ reader.gram) * weight)) or 1.0


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
