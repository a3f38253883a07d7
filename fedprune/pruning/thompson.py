"""Combinatorial Thompson sampling: every weight an arm with a Beta posterior, a mask the arms with the best draws."""

from typing import NamedTuple

import numpy as np

from fedprune.pruning.topk import top_k
from fedprune.types import BoolTensor, Tensor


class Posterior(NamedTuple):
    """Beta(α, β) of each weight of a layer; 1 and 1, uniform, before anything is known."""

    alpha: Tensor
    beta: Tensor


def learnt(prior: Posterior, arms: BoolTensor, outcome: Tensor, scale: float = 1.0) -> Posterior:
    """α + λ X and β + λ (1 − X) of these ``arms``, λ the ``scale``, X the ``outcome`` in [0, 1] (FedRTS, eq. 6).

    >>> learnt(Posterior(np.ones(2), np.ones(2)), np.array([True, False]), np.array([0.75, 0.5]), scale=4)
    Posterior(alpha=array([4., 1.]), beta=array([2., 1.]))
    """
    alpha, beta = (scale * np.where(arms, x, 0.0) for x in (outcome, 1.0 - outcome))
    return Posterior(prior.alpha + alpha, prior.beta + beta)


def drawn(posterior: Posterior, k: int, rng: np.random.Generator) -> BoolTensor:
    """The ``k`` arms with the largest ξ ~ Beta(α, β) (FedRTS, eq. 2).

    >>> drawn(Posterior(np.array([1e6, 1.0, 1e6]), np.array([1.0, 1e6, 1.0])), 2, np.random.default_rng(0))
    array([ True, False,  True])
    """
    return top_k(rng.beta(posterior.alpha, posterior.beta), k)
