"""Dis-PFL: personal masks, weights averaged where they meet (Dai et al., ICML 2022, arXiv 2206.00187)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods import owning
from fedprune.methods.layers import GRAD, Shapes, density_in_range, fractions_in_range, scattered
from fedprune.pruning import criteria, masks
from fedprune.pruning.parts import statistics
from fedprune.pruning.pruners import regrow
from fedprune.pruning.schedules import cosine
from fedprune.types import Ask, DeviceId, Holder, Local, Method, Model, Params, Part, Trained


def dis_pfl(layers: Shapes, *, density: float, stop: int = 100, fraction: float = 0.5, seed: int = 0) -> Method:
    """Devices share a density and no mask: each swaps its own weights by their sizes and its own gradients (alg. 1, 2).

    A device begins a round with the average of each weight over the devices that keep it, under its own mask. After its
    steps it drops fraction/2 · (1 + cos(πr/stop)) of each layer's kept weights, the smallest, and grows as many by the
    gradients of one batch; it is tested as it trained, grown weights being 0. Masks begin alike, at random, of
    Erdős–Rényi-kernel densities, as in the public code.

    Over a server: all devices of a round are each other's neighbours, weighted by their examples, where the paper's
    exchange with a few each, in a graph that changes, unweighted; and the server holds each device's mask and weights.
    Statistics of batch norms are a device's own: under averaged ones two runs of the digits got 36 % right, not 78 %.
    The exported model is the average under the union of all masks, which no device's is, and larger than ``density``.
    """
    fractions_in_range(fraction=fraction)
    begin = scattered(layers, density_in_range(density), seed)
    first = begin({name: np.zeros(shape) for name, shape in layers.items()}).masks
    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    most = swap.grows(first, 0)

    def start(params: Params) -> Model:
        return begin(params)._replace(memory=owning.begun())

    def part(model: Model, holder: Holder) -> Part:
        shared = model.parts.get(holder.part) or Part({}, model.masks)
        own = owning.weights_of(model, holder.device)
        own = statistics(own) if holder.round >= owning.coming(model) else own
        kept = owning.mask_of(model, holder.device) or first
        return Part({**shared.params, **own}, masks.intersect(shared.masks, kept))

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        memory = dict(model.memory)
        for device, brought in trained.items():
            kept, told = brought.masks, brought.reports.get(GRAD, {})
            if told:
                grad = {name: told.get(name, np.zeros(shape)) for name, shape in layers.items()}
                read = {"weight": {name: brought.params[name] for name in layers}, GRAD: grad}
                kept = swap.update(kept, read, owning.coming(model))
            memory |= owning.owned(device, kept, masks.apply(brought.params, kept))
        return model._replace(memory=memory)

    local = Local(reports={GRAD: Ask("top_gradients", most)} if most else {})
    return Method(start, part, local, join, act=owning.under_all)
