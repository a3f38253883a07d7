"""OTOv2: channels that training itself makes exactly 0, and so removes (Chen et al., ICLR 2023, arXiv 2303.06862)."""

from collections.abc import Mapping

import numpy as np

from fedprune.methods.channels import (
    PUSH,
    best_channels,
    keep_in_range,
    made_of,
    pushed,
    rows,
    unpushed,
    whole,
    without,
    zeroed,
)
from fedprune.methods.layers import Channels, Shapes
from fedprune.pruning.criteria import redundancy
from fedprune.training.half_space import half_space
from fedprune.training.losses import plain_loss
from fedprune.types import Ask, Found, Local, Method, Model, Params


def dhspg(
    layers: Shapes,
    *,
    keep: float = 0.5,
    penalty: float = 1e-3,
    amplify: float = 2.0,
    cap: float = 10.0,
    epsilon: float = 0.0,
    begin: int = 0,
    stop: int = 10,
    channels: Channels,
) -> Method:
    """After round ``begin`` choose K redundant channels, drive them to 0, remove after ``stop`` those that are.

    A channel is all that makes it: rows, biases, γ and β of a group of coupled channels; at 0 it gives 0 (zero
    invariant, §3.1). K is all but ``keep`` of them, one of each group staying at least, by ½ cos(x, ∇L) + ½ / (mean
    size of x) with the devices' pooled gradient (§3.2). Devices take half-space steps (DHSPG, alg. 2): see
    `training.half_space`, also for ``penalty`` (λ), ``amplify``, ``cap`` and ``epsilon``. After averaging, which moves
    from 0 what not every device has there, the server puts back what devices with half of the examples have.

    What is removed is 0: the narrower model is the same function, without fine-tuning; a chosen channel that is not 0
    yet at ``stop`` stays. The published λ 1e-3 is for thousands of steps. From memory (m): how λ is raised, momentum
    within the step, the root mean square as the mean size.
    """
    keep_in_range(keep)
    if not penalty > 0 or not 0 <= begin < stop:
        raise ValueError(f"penalty {penalty} is not above 0, or begin {begin} not from 0 to before stop {stop}")
    groups = channels()[0]
    made = made_of(groups)
    names = [member.name for members in made.values() for member in members]
    half = half_space({PUSH + name: members for name, members in made.items()}, amplify, cap, epsilon)
    # An optimiser sees no memory but what is trained; this does not move, and stays at home.
    local = Local(plain_loss, half, trains=tuple(PUSH + name for name in made), sends=lambda params, memory: params)

    def start(params: Params) -> Model:
        return pushed(whole(channels, params), {g.name: np.ones(g.size, np.bool_) for g in groups}, penalty)

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        due = begin <= round < stop and all(free.all() for free in unpushed(model).values())
        return {"grad": Ask("gradients", names)} if due else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if found.get("grad"):
            scores = {n: -redundancy(rows(m, model.params), rows(m, found["grad"])) for n, m in made.items()}
            return pushed(model, best_channels(scores, keep), penalty)
        if round != stop:
            return model
        alive = {n: free | rows(made[n], model.params).any(1) for n, free in unpushed(model).items()}
        return without(model, channels, alive)

    return Method(start, local=local, join=lambda model, trained: zeroed(model, made, trained), asks=asks, act=act)
