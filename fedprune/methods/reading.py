"""Methods that prune once, before training, by how much an output gets through each weight of what its layer reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fedprune.methods.layers import Shapes, dense, density_in_range, masked
from fedprune.pruning import criteria
from fedprune.pruning.allocation import uniform
from fedprune.pruning.patterns import few_of, n_of_m
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.pruning.topk import top_k_of_rows
from fedprune.types import Allocation, Ask, BoolTensor, Found, Masks, Method, Model, Params, Tensor

INPUTS = "inputs"
"""What they call their ask for `fedprune.measures.input_moments`."""

Best = Callable[[Tensor, int], BoolTensor]


def scored_once(layers: Shapes, more: Mapping[str, Ask], choose: Callable[[Model, Found], Masks]) -> Method:
    """A method whose masks ``choose`` draws before training, from the moments of what layers read and from ``more``.

    Where nobody could say any of it the model stays dense.
    """
    wanted = {INPUTS: Ask("input_moments", tuple(layers)), **more}

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {name: ask._replace(masks=model.masks) for name, ask in wanted.items()}

    def act(model: Model, found: Found, round: int) -> Model:
        if round or not all(found.get(name) for name in wanted):
            return model
        return masked(model, choose(model, found))

    return Method(dense(layers), asks=asks, act=act)


def norms(model: Model, found: Found) -> Params:
    """√ of the mean over examples of Σ x² over positions, of what each weight reads, in the weights' shapes.

    It is 1 of a layer of which nobody could say it, whose weights then compare by size.
    """
    read: dict[str, Tensor] = {}
    for name, mask in model.masks.items():
        if f"{name}/mean" not in found[INPUTS]:
            read[name] = np.ones(mask.shape)
            continue
        of = {what: found[INPUTS][f"{name}/{what}"] for what in ("mean", "variance", "positions")}
        squares = (of["variance"] + of["mean"] ** 2) * (of["positions"] / found[INPUTS]["examples"])
        # (groups, ...): a group's outputs, which lie one after the other, read the same
        read[name] = np.repeat(np.sqrt(squares), len(mask) // len(squares), axis=0)
    return read


def best_of_outputs(
    model: Model, density: float, inputs: Params, allocate: Allocation = uniform, best: Best = top_k_of_rows
) -> Masks:
    """Masks that keep of each output the weights with the largest |θ| · ``inputs``."""
    rule = prune(criteria.carried, constant(density), allocate=allocate, best=best)
    return rule.update(model.masks, {"weight": model.params, "inputs": inputs}, 0)


def pattern(density: float, of: int) -> Best:
    """What ``best_of_outputs`` keeps: the best of each output, or, with ``of`` M, density · M of every M inputs.

    ValueError for a density that is none, or none of so many.
    """
    few = few_of(density_in_range(density), of)
    if not of:
        return top_k_of_rows
    if not few:
        raise ValueError(f"density {density} of {of} is no N:M")
    return lambda scores, k: n_of_m(scores, few, of)
