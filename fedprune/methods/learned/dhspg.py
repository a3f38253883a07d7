"""OTOv2: channels that training itself makes exactly 0, and so removes (Chen et al., ICLR 2023, arXiv 2303.06862)."""

from collections.abc import Mapping
from functools import partial

from fedprune.methods.channels import (
    PUSH,
    best_channels,
    keep_in_range,
    made_of,
    pushed,
    redundancy,
    rows,
    unpushed,
    whole,
    without,
    zeroed,
)
from fedprune.methods.layers import Channels, Shapes
from fedprune.training.half_space import half_space
from fedprune.training.losses import plain_loss
from fedprune.types import Ask, Found, Local, Method, Model


def dhspg(
    layers: Shapes, *, keep: float = 0.5, penalty: float = 1e-3, amplify: float = 2.0, cap: float = 10.0,
    epsilon: float = 0.0, begin: int = 0, stop: int = 10, channels: Channels,
) -> Method:  # fmt: skip
    """After round ``begin`` choose K redundant channels, drive them to 0, remove after ``stop`` those that are.

    A channel is all that makes it: rows, biases, γ and β of a group of coupled channels; at 0 it gives 0 (zero
    invariant, §3.1). K is all but ``keep`` of them, one of each group staying at least, by ½ cos(x, ∇L) + ½ / (mean
    size of x) with the devices' pooled gradient (§3.2). Devices take half-space steps (DHSPG, alg. 2): see
    `training.half_space`, also for ``penalty`` (λ), ``amplify``, ``cap`` and ``epsilon``. After averaging, which moves
    from 0 what not every device has there, the server puts back what devices with half of the examples have.

    What is removed is 0: the narrower model is the same function, without fine-tuning; a chosen channel that is not 0
    yet at ``stop`` stays. The published λ 1e-3 is for thousands of steps. From memory (m): how λ is raised, momentum
    within the step, the root mean square as the mean size. It is in units of its group's mean, which the paper does not
    say: batch norm leaves a layer's scale open, and without it 15 of the 16 channels of one layer were chosen here.
    """
    keep_in_range(keep)
    if not penalty > 0 or not 0 <= begin < stop:
        raise ValueError(f"penalty {penalty} is not above 0, or begin {begin} not from 0 to before stop {stop}")
    if not amplify > 0 or cap < 0 or not 0 <= epsilon < 1:
        raise ValueError(f"amplify {amplify} is not above 0, cap {cap} below 0, or epsilon {epsilon} outside [0, 1)")
    made = made_of(channels()[0])
    pushes = {PUSH + name: members for name, members in made.items()}
    half = half_space(pushes, amplify, cap, epsilon)
    # An optimiser sees no memory but what is trained; this does not move, and stays at home.
    local = Local(plain_loss, half, trains=tuple(pushes), sends=lambda params, memory: params)

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        due = begin <= round < stop and all(free.all() for free in unpushed(model).values())
        return {"grad": Ask("gradients", [m.name for members in made.values() for m in members])} if due else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if grad := found.get("grad"):
            scores = {name: -redundancy(rows(each, model.params), rows(each, grad)) for name, each in made.items()}
            return pushed(model, best_channels(scores, keep), penalty)
        if round != stop:
            return model
        return without(model, channels, {n: f | rows(made[n], model.params).any(1) for n, f in unpushed(model).items()})

    return Method(partial(whole, channels), local=local, join=partial(zeroed, made), asks=asks, act=act)
