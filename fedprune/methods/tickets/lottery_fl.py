"""LotteryFL: each device its own ticket of one shared model (Li et al., 2020, arXiv 2008.03371)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods import owning
from fedprune.methods.layers import Shapes, density_in_range, fractions_in_range, largest
from fedprune.methods.rewinding import FIRST, named, unnamed
from fedprune.pruning import masks
from fedprune.pruning.parts import statistics
from fedprune.types import Ask, DeviceId, Holder, Local, Method, Model, Params, Part, Trained


def lottery_fl(layers: Shapes, *, density: float, fraction: float = 0.2, goal: float = 0.5) -> Method:
    """A device that is right on a ``goal`` of its development examples loses a ``fraction`` of its weights (alg. 1).

    They are the least of its own trained |θ|, of all layers together, until ``density`` of them are left. In the round
    after it trains from θ₀ under its new mask; weights are averaged over the devices that keep them. Of a device the
    server keeps masks, and statistics of batch norms: with the averaged ones, which are those of no device's mask, ten
    digits' devices got 52 % right instead of 95 %. The exported model is the average under the union of all devices'
    masks, which no device's own ticket is, and larger than ``density``. (m): ``fraction`` and ``goal``. Not as there:
    accuracy is that of the device's trained weights, not of what it was sent; one that is not drawn in the round after
    it was pruned goes on from the average; and one that has never trained begins with what the others' union keeps.
    """
    density_in_range(density)
    fractions_in_range(fraction=fraction, goal=goal)

    def start(params: Params) -> Model:
        return Model(params, masks.ones_like(layers), {**owning.begun(), **named(FIRST, params)})

    def part(model: Model, holder: Holder) -> Part:
        shared = model.parts.get(holder.part) or Part({}, model.masks)
        again = f"again/{holder.device}" in model.memory and holder.round >= owning.coming(model)
        own = unnamed(FIRST, model.memory) if again else owning.weights_of(model, holder.device)
        kept = owning.mask_of(model, holder.device)
        return Part({**shared.params, **own}, masks.intersect(shared.masks, kept))

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        memory = {name: value for name, value in model.memory.items() if not name.startswith("again/")}
        for device, brought in trained.items():
            kept, now = brought.masks, masks.density(brought.masks)
            if now > density and brought.reports["right"].get("accuracy", -1) >= goal:
                kept = largest(max(density, now * (1 - fraction))).update(kept, {"weight": brought.params}, 0)
                memory[f"again/{device}"] = np.asarray(True)
            memory |= owning.owned(device, kept, statistics(brought.params))
        return model._replace(memory=memory)

    return Method(start, part, Local(reports={"right": Ask("accuracy")}), join, act=owning.under_all)
