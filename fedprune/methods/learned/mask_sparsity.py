"""MaskSparsity: an L1 penalty on the batch-norm scales that are to go alone (Jiang et al., arXiv 2201.06776, 2022)."""

from typing import Any

import numpy as np

from fedprune.methods.channels import PUSH, best_channels, keep_in_range, pushed, rows, scales, unpushed, whole, without
from fedprune.methods.layers import Channels, Shapes
from fedprune.training.losses import plain_loss
from fedprune.types import Found, Local, Method, Model, Params


def mask_sparsity(
    layers: Shapes, *, keep: float = 0.5, penalty: float = 5e-4, choose: int = 0, stop: int = 10, channels: Channels
) -> Method:
    """Choose channels by their |γ| after round ``choose``, push the others' towards 0, remove them after ``stop``.

    Devices minimise L + penalty · Σ 1[masked] |γ| (§3.2); the server removes the masked channels of every group at
    once, so that devices train a narrower model from the next round on, which is the fine-tuning. Until ``choose`` the
    penalty is on every γ, which is the paper's way to its mask; ``choose`` = 0 takes the pretrained γ as they are, and
    ``choose`` = ``stop`` is Network Slimming, the global L1 that the paper compares with (Liu et al., ICCV 2017).

    A channel's score is the mean |γ| of its batch norms, ranked over all groups; the best ``keep`` of all stay, where
    the paper keeps those above 0.01 (m). The published λ 5e-4 is for some hundred epochs. Not done: going back to the
    pretrained weights once channels are chosen (m); and anything about β, which is not pushed: a channel whose γ is 0
    still gives max(0, β) until it is removed, and what an accuracy loses at removal is that.
    """
    keep_in_range(keep)
    if not penalty > 0 or not 0 <= choose <= stop:
        raise ValueError(f"penalty {penalty} is not above 0, or choose {choose} not from 0 to stop {stop}")
    gammas = scales(channels()[0])

    def loss(net: Any, params: Any, inputs: Any, labels: Any, memory: Any, now: Any) -> Any:
        left = {name: each for name, each in gammas.items() if memory[PUSH + name].any()}  # none once they are removed
        norms = [memory[PUSH + n] @ params[m.name].abs()[m.positions].sum(1) for n, each in left.items() for m in each]
        return plain_loss(net, params, inputs, labels, memory, now) + sum(norms)

    def start(params: Params) -> Model:
        none = {name: np.zeros(len(each[0].positions), np.bool_) for name, each in gammas.items()}
        return pushed(whole(channels, params), none, penalty)

    def act(model: Model, found: Found, round: int) -> Model:
        if round == choose:
            sizes = {name: np.abs(rows(each, model.params)).mean(1) for name, each in gammas.items()}
            model = pushed(model, best_channels(sizes, keep), penalty)
        return without(model, channels, unpushed(model)) if round == stop else model

    return Method(start, local=Local(loss=loss, reads=tuple(PUSH + name for name in gammas)), act=act)
