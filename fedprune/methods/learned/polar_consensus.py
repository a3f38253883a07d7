"""Polar consensus: gates that differ by batch become one sub-network (Zhi et al., 2023, arXiv 2302.10798)."""

from typing import Any

import numpy as np

from fedprune.counter_rng import uniforms
from fedprune.methods.channels import best_channels, keep_in_range, last_of, narrower, whole
from fedprune.methods.layers import Channels, Shapes, above_zero, from_to
from fedprune.training.channel_gates import gated, there
from fedprune.training.losses import plain_loss
from fedprune.types import Found, Local, Method, Model, Params, Scores

_LOGIT = "logit/"
_FAST = 10.0  # logits are so many times what is trained, so that SGD moves them a hundred times as far
_BEGIN = 2.0


def polar_consensus(
    layers: Shapes, *, keep: float = 0.5, target: float = 30.0, polar: float = 3.0, stop: int = 10, channels: Channels,
    seed: int = 0,
) -> Method:  # fmt: skip
    """Train weights, and with them the chance p of each channel to be there, until every one is there or not.

    Devices minimise CE + ``target`` · (mean p − ``keep``)² + ``polar`` · mean p (1 − p) (eq. 4 (m)). In each batch a
    channel is there by a draw of chance p, whose gradient is that of σ(logit + noise) (binary Gumbel, straight
    through); draws follow from seed, round and step, and are the same on all devices, and logits are averaged, which
    makes their consensus. After round ``stop`` the ``keep`` of all channels of the largest p are held, one of each
    group at least, and there are no gates.

    Not as there: gates do not look at an example's activations, which would be layers that the net has not; they vary
    over batches, where the paper's vary over examples, and the polar term drives that variance, p (1 − p), to 0 as
    there. (m): the weights of both terms; that a logit begins at 2 and is ten times what is trained is this file's.
    """
    keep_in_range(keep)
    above_zero(target=target)
    from_to("polar", polar, 0)
    from_to("stop", stop, 1)
    groups, _ = channels()
    last, names = last_of(groups), [group.name for group in groups]

    def loss(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, now: Any) -> Any:
        import torch

        if now.round > stop:
            return plain_loss(net, params, inputs, labels, memory, now)
        logits = {name: _FAST * memory[_LOGIT + name] for name in names}
        gates = {}
        for name, logit in logits.items():
            u = uniforms(seed, f"{now.round}/{now.step}/{name}", len(logit)).clip(1e-9, 1 - 1e-9)
            gates[name] = there(torch.sigmoid(logit + torch.from_numpy(np.log(u / (1 - u))).to(logit.dtype)))
        chance = torch.cat([*logits.values()]).sigmoid()
        besides = target * (chance.mean() - keep) ** 2 + polar * (chance * (1 - chance)).mean()
        return plain_loss(net, gated(params, last, gates), inputs, labels, memory, now) + besides

    def start(params: Params) -> Model:
        logits = {_LOGIT + group.name: np.full(group.size, _BEGIN / _FAST, np.float32) for group in groups}
        return whole(channels, params)._replace(memory=logits)

    def act(model: Model, found: Found, round: int) -> Model:
        if round != stop:
            return model
        scores: Scores = {name: model.memory[_LOGIT + name] for name in names}
        return narrower(model, channels, best_channels(scores, keep))

    return Method(start, local=Local(loss, trains=tuple(_LOGIT + name for name in names)), act=act)
