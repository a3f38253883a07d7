"""FedDST: devices readjust their own masks, the server prunes back (Bibikar et al., AAAI 2022, arXiv 2112.09824)."""

import functools
from collections.abc import Mapping
from math import prod

import numpy as np

from fedprune.methods.layers import GRAD, Shapes, density_in_range, evidence, fractions_in_range, masked, scattered
from fedprune.methods.rewinding import named, unnamed
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import erk
from fedprune.pruning.pruners import prune, regrow
from fedprune.pruning.schedules import constant, cosine
from fedprune.pruning.topk import kept_count
from fedprune.types import Ask, DeviceId, Found, Holder, Local, Method, Model, Params, Part, Trained

_OWN, _BEFORE = "own/", "before/"


def feddst(
    layers: Shapes, *, density: float, period: int = 10, stop: int = 100, fraction: float = 0.05, seed: int = 0
) -> Method:
    """Before each ``period``-th round until ``stop`` devices swap α/2 · (1 + cos(πr/stop)) of each layer's weights.

    Each drops the smallest of its own trained |θ| and grows its own largest |∂L/∂θ|, from 0 (alg. 1); in the round
    after, it trains under its own mask. Then the server averages each weight over the devices that kept it and prunes
    the smallest |θ| of each layer, back to Erdős–Rényi-kernel densities, with which random masks begin. α is
    ``fraction``, 0.01 in the authors' examples (m); with 0.3, as of methods where all grow the same, ten devices that
    differ made digits at density 0.02 worse by 30 points.

    Not as there: devices readjust at the end of a round, and what they then train, all of the next one, begins with the
    average; as many of the largest gradients as they ever grow travel with each round's weights, since the server
    carries out what each device decides; a device that was not drawn when others readjusted trains what is left of the
    mask before. Between the two rounds the model is the union of all masks, larger than ``density``.
    """
    density_in_range(density)
    fractions_in_range(fraction=fraction)
    if period < 1:
        raise ValueError(f"period {period} is not a positive number of rounds")
    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    back = prune(criteria.magnitude, constant(density), allocate=erk(layers))
    begin = scattered(layers, density, seed)
    shares = erk(layers)({name: np.broadcast_to(np.float32(0), shape) for name, shape in layers.items()}, density)
    most = {name: int(fraction * kept_count(shares[name], prod(shape))) for name, shape in layers.items()}

    def start(params: Params) -> Model:
        return begin(params)._replace(memory={"round": np.asarray(0)})

    def part(model: Model, holder: Holder) -> Part:
        shared = model.parts.get(holder.part) or Part({}, model.masks)
        own = unnamed(f"{_OWN}{holder.device}/", model.memory) or unnamed(_BEFORE, model.memory)
        return shared._replace(masks=masks.intersect(shared.masks, own))

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        round = int(model.memory["round"]) + 1
        if unnamed(_BEFORE, model.memory):
            fewer = back.update(model.masks, evidence(model, {}, back), round)
            return masked(model._replace(memory={"round": model.memory["round"]}), fewer)
        if (round + 1) % period or round >= stop:
            return model
        own = {
            device: swap.update(it.masks, evidence(Model(it.params, it.masks), {GRAD: it.reports[GRAD]}, swap), round)
            for device, it in trained.items()
        }
        tensors = {key: mask for device, each in own.items() for key, mask in named(f"{_OWN}{device}/", each).items()}
        memory = {**model.memory, **named(_BEFORE, model.masks), **tensors}
        return masked(model._replace(memory=memory), functools.reduce(masks.union, own.values()))

    def act(model: Model, found: Found, round: int) -> Model:
        return model._replace(memory={**model.memory, "round": np.asarray(round)})

    return Method(start, part, Local(reports={GRAD: Ask("top_gradients", most)}), join, act=act)
