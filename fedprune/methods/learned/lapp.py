"""LAPP: a trained threshold decides how many channels of a layer go (Zhai et al., 2023, arXiv 2309.14157)."""

from typing import Any

import numpy as np

from fedprune.methods.channels import (
    best_within,
    last_of,
    made_of,
    narrower,
    reached,
    rows,
    share_of_weights,
    whole,
)
from fedprune.methods.layers import Channels, Shapes, above_zero, from_to
from fedprune.pruning.schedules import linear
from fedprune.training.channel_gates import gated, there, weights_left
from fedprune.training.losses import plain_loss
from fedprune.types import Found, Local, Method, Model, Params, Scores

_THRESHOLD = "threshold/"


def lapp(
    layers: Shapes, *, keep: float = 0.5, penalty: float = 0.1, temperature: float = 0.25, ramp: int = 0,
    stop: int = 10, channels: Channels,
) -> Method:  # fmt: skip
    """Train weights and thresholds τ at once: a channel is there while its score s is not below its group's τ.

    Devices minimise CE of what is there + ``penalty`` · (w / t − 1)²; w is the part of all weights that is left, and t
    falls along a line from 1 to ``keep`` in round ``ramp``, by default half-way to ``stop``. A gate's gradient is that
    of σ((s − τ) / ``temperature``), straight through; a channel that is not there may come back. A number a group
    travels besides the weights. After round ``stop`` devices hold the channels of the largest s − τ, ``keep`` of all
    weights.

    (m), since the paper's recipe is not at hand: s is ‖row‖ over its mean in the group and has no gradient, thresholds
    start at the least s, gates are on what comes last of a channel, and ``penalty`` and ``temperature``. Not as there:
    weights are counted, where the paper counts multiply-adds; and nothing bypasses a pruned layer, which would be
    another net. One that has a bypass, such as a residual net, keeps it.
    """
    above_zero(penalty=penalty, temperature=temperature)
    from_to("stop", stop, 1)
    ramp = ramp or -(-stop // 2)
    from_to("ramp", ramp, 1, stop, "stop")
    groups, shapes = channels()
    reached(keep, groups, shapes)
    weights = {name: [m for m in each if len(m.shape) > 1] for name, each in made_of(groups).items()}
    last, target = last_of(groups), linear(1.0, keep, end=ramp)

    def sizes(params: Params) -> Scores:
        norms = {name: np.linalg.norm(rows(each, params), axis=1) for name, each in weights.items()}
        return {name: norm / (norm.mean() or 1.0) for name, norm in norms.items()}

    def loss(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, now: Any) -> Any:
        import torch

        if now.round > stop:
            return plain_loss(net, params, inputs, labels, memory, now)
        still = sizes(
            {name: params[name].detach().numpy() for each in weights.values() for name in {m.name for m in each}}
        )
        over = {name: torch.from_numpy(s) - memory[_THRESHOLD + name] for name, s in still.items()}
        gates = {name: there(torch.sigmoid(each / temperature)) for name, each in over.items()}
        far = weights_left(groups, shapes, gates) / target(now.round) - 1
        return plain_loss(net, gated(params, last, gates), inputs, labels, memory, now) + penalty * far**2

    def start(params: Params) -> Model:
        least = {_THRESHOLD + name: np.array([s.min()], np.float32) for name, s in sizes(params).items()}
        return whole(channels, params)._replace(memory=least)

    def act(model: Model, found: Found, round: int) -> Model:
        if round != stop:
            return model
        over = {name: s - model.memory[_THRESHOLD + name] for name, s in sizes(model.params).items()}
        return narrower(model, channels, best_within(over, share_of_weights(groups, shapes), keep))

    return Method(start, local=Local(loss, trains=tuple(_THRESHOLD + name for name in weights)), act=act)
