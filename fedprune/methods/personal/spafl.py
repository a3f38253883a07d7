"""SpaFL: filters have thresholds, which are trained and alone are shared (Kim et al., NeurIPS 2024, 2406.00431)."""

from collections.abc import Mapping
from math import prod

import numpy as np

from fedprune.methods import owning
from fedprune.methods.layers import Shapes
from fedprune.methods.rewinding import named, unnamed
from fedprune.pruning import masks
from fedprune.training.thresholds import kept_rows, through_thresholds
from fedprune.types import BoolTensor, DeviceId, Holder, Local, Method, Model, Params, Part, Tensor, Trained

_THRESHOLD, _BEFORE = "threshold/", "before/"


def spafl(layers: Shapes, *, pull: float = 2e-3) -> Method:
    """Filter i is pruned while its mean |w_ij| is not above its threshold τ_i, which starts at 0 (eq. 2).

    Devices minimise L + ``pull`` Σ exp(−τ) over weights, of kept filters, and thresholds, straight through (§3.2); a
    layer of which nothing would be left is kept whole. Thresholds are averaged; weights and all else stay a device's
    own, but for what the average says of them: w_ij ← w_ij − sign(Σ_j w_ij) Δτ_i / n, Δτ the change of the average in
    the round, n a kernel's size or a neuron's inputs, as in the public code (§3.3). How many filters go is learnt, and
    no density can be asked for.

    The paper's bytes are thresholds alone, 4 for each filter, up and down. Here a device keeps nothing between rounds:
    the server holds its weights, so that they travel as well, and are counted. A filter that all devices have pruned
    stays so. The exported model is the devices' average under the union of their masks, which no device's is.
    """
    if not pull > 0:
        raise ValueError(f"pull {pull} is not above 0")
    trains = tuple(_THRESHOLD + name for name in layers)

    def start(params: Params) -> Model:
        zeros = {name: np.zeros(shape[0], np.float32) for name, shape in layers.items()}
        memory = {**owning.begun(), **named(_THRESHOLD, zeros), **named(_BEFORE, zeros)}
        return Model(params, masks.ones_like(layers), memory)

    def part(model: Model, holder: Holder) -> Part:
        shared = model.parts.get(holder.part) or Part({}, model.masks)
        tested = {} if holder.round >= owning.coming(model) else owning.mask_of(model, holder.device)
        own = owning.weights_of(model, holder.device)
        return Part({**shared.params, **own}, masks.intersect(shared.masks, tested))

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        now, before = (unnamed(prefix, model.memory) for prefix in (_THRESHOLD, _BEFORE))
        all_of = {
            **{device: owning.weights_of(model, device) for device in owning.devices(model)},
            **{str(device): each.params for device, each in trained.items()},
        }
        memory = {**model.memory, **named(_BEFORE, now)}
        for device, own in all_of.items():
            told = {name: _told(own[name], now[name] - before[name]) for name in layers}
            kept = {name: _spread(kept_rows(value, now[name]), value.shape) for name, value in told.items()}
            memory |= owning.owned(device, masks.intersect(kept, model.masks), {**own, **told})
        return model._replace(memory=memory)

    local = Local(through_thresholds(tuple(layers), _THRESHOLD, pull), trains=trains)
    return Method(start, part, local, join, act=owning.under_all)


def _told(weight: Tensor, change: Tensor) -> Tensor:
    """Weights, moved by what the average says of their filters; as they were where it says nothing."""
    sign = np.sign(weight.reshape(len(weight), -1).sum(1))
    size = prod(weight.shape[2:]) if weight.ndim > 2 else weight.shape[1]
    moved: Tensor = weight - (sign * change / size).reshape(-1, *[1] * (weight.ndim - 1))
    return moved.astype(weight.dtype)


def _spread(rows: BoolTensor, shape: tuple[int, ...]) -> BoolTensor:
    return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
