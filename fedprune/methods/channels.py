"""Methods that drive channels to nothing and remove them: what a channel is made of, which are pushed, and removal.

Until they are removed devices hold every channel, as a part of that name; which are pushed, and how strongly, is in the
model's memory, a tensor a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import numpy as np

from fedprune.graph.coupling import Group, Member
from fedprune.graph.width import width_masks
from fedprune.methods.layers import Channels, Shapes, narrowed
from fedprune.pruning.allocation import ranked
from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import DeviceId, Masks, Model, Params, Scores, Tensor, Trained

Members = Mapping[str, Sequence[Member]]
"""Group -> of what its channels are made."""

PUSH = "push/"
"""Before a group's name in memory: how strongly each of its channels is pushed, (channels,) float32; 0 is not."""

_LEAST = 1e-6  # of a group: rounded up, that is one channel


def keep_in_range(keep: float) -> float:
    """``keep`` itself, a fraction of all channels; ValueError where it is outside (0, 1]."""
    if not 0 < keep <= 1:
        raise ValueError(f"keep {keep} is outside (0, 1]")
    return keep


def made_of(groups: Iterable[Group]) -> Members:
    """What makes a channel: rows of weights, biases, batch norms' γ and β. All of them 0, so is the channel."""
    return {g.name: [m for m in g.members if m.produces and m.name.endswith(("weight", "bias"))] for g in groups}


def last_of(groups: Iterable[Group]) -> Members:
    """Of what makes a channel what comes last: γ and β of batch norms, and rows and biases that no batch norm reads.

    All of them times a gate, so is the channel; what a batch norm reads would be scaled back by it.
    """
    made = made_of(groups)
    scaled = {m.layer for members in made.values() for m in members if len(m.shape) == 1 and m.name.endswith(".weight")}
    read = {layer for group in groups for layer, norm in group.norms.items() if norm in scaled}
    return {name: [m for m in members if m.layer not in read] for name, members in made.items()}


def scales(groups: Iterable[Group]) -> Members:
    """The γ of batch norms alone, and groups that have any; ValueError where none has."""
    gammas = {
        name: [m for m in each if m.name.endswith(".weight") and len(m.shape) == 1]
        for name, each in made_of(groups).items()
    }
    if not any(gammas.values()):
        raise ValueError("the model has no batch norm whose channels can be followed")
    return {name: each for name, each in gammas.items() if each}


def rows(members: Sequence[Member], params: Params) -> Tensor:
    """(channels, weights): all that members hold of each channel of their group, side by side."""
    return np.concatenate([params[m.name][m.positions.ravel()].reshape(len(m.positions), -1) for m in members], 1)


def best_channels(scores: Scores, keep: float) -> Masks:
    """Group -> kept channels: the best ``keep`` of those of all groups, and at least one of each.

    >>> kept = best_channels({"a": np.array([9.0, 8.0, 7.0]), "b": np.array([1.0, 2.0, 3.0])}, 0.5)
    >>> {name: channels.tolist() for name, channels in kept.items()}
    {'a': [True, True, False], 'b': [False, False, True]}
    """
    keep = max(keep, len(scores) / sum(score.size for score in scores.values()))
    densities = ranked(floor=_LEAST)(scores, keep)
    return {name: top_k(score, kept_count(densities[name], score.size)) for name, score in scores.items()}


def share_of_weights(groups: Sequence[Group], shapes: Shapes) -> Callable[[Masks], float]:
    """(group -> kept channels) -> which part of the model's weights they leave; biases and batch norms do not count."""
    sizes = {name: prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    total = sum(sizes.values())

    def share(channels: Masks) -> float:
        kept = width_masks(groups, shapes, channels)
        return sum(int(kept[name].sum()) if name in kept else size for name, size in sizes.items()) / total

    return share


def reached(keep: float, groups: Sequence[Group], shapes: Shapes) -> float:
    """``keep``, of the weights; ValueError where it is outside (0, 1], or less than one channel a group leaves."""
    least = share_of_weights(groups, shapes)({group.name: np.arange(group.size) < 1 for group in groups})
    if keep_in_range(keep) < least:
        raise ValueError(f"keep {keep} is less than the least net takes: {least:.3g}, of one channel a group")
    return keep


def best_within(scores: Scores, cost: Callable[[Masks], float], most: float) -> Masks:
    """Group -> kept channels: as many of the best of all groups as cost at most ``most``, found by halving.

    At least one of each group, whatever that costs. A channel more is taken to cost no less.
    """
    total, low, high = sum(score.size for score in scores.values()), len(scores), sum(map(np.size, scores.values()))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(best_channels(scores, middle / total)) <= most else (low, middle - 1)
    return best_channels(scores, low / total)


def filled(scores: Scores, kept: Masks, cost: Callable[[Masks], float], most: float, near: float) -> Masks:
    """``kept``, and of the channels left, the best first, each that still fits, until ``near`` · ``most`` is taken.

    One ranking ends where its next channel does not fit, though a cheaper one further down would. Where one of a group
    does not fit, none of its others is tried.

    >>> scores, sizes = {"a": np.array([4.0, 3.0]), "b": np.array([2.0, 1.0])}, {"a": 10, "b": 2}
    >>> kept = {"a": np.array([True, False]), "b": np.array([True, False])}
    >>> filled(scores, kept, lambda kept: sum(sizes[name] * each.sum() for name, each in kept.items()), 15, 0.9)
    {'a': array([ True, False]), 'b': array([ True,  True])}
    """
    kept, full = dict(kept), set[str]()
    best_first = sorted((-value, name, channel) for name, each in scores.items() for channel, value in enumerate(each))
    for _, name, channel in best_first:
        if cost(kept) >= near * most:
            break
        if name in full or kept[name][channel]:
            continue
        more = {**kept, name: kept[name] | (np.arange(kept[name].size) == channel)}
        kept, full = (more, full) if cost(more) <= most else (kept, {*full, name})
    return kept


def whole(channels: Channels, params: Params) -> Model:
    """A model whose devices hold every channel for now, and of which none is pushed; ValueError where it has none."""
    if not channels()[0]:
        raise ValueError("the model has no channels that can be followed, so none can be pruned")
    free = {group.name: np.ones(group.size, np.bool_) for group in channels()[0]}
    return pushed(narrowed(channels, lambda groups: {})(params), free, 0.0)


def pushed(model: Model, kept: Masks, strength: float) -> Model:
    """The model in which all channels of these groups but the kept are pushed."""
    return model._replace(memory={PUSH + name: np.float32(strength) * ~mask for name, mask in kept.items()})


def unpushed(model: Model) -> Masks:
    """Group -> the channels that are not pushed."""
    return {name.removeprefix(PUSH): push == 0 for name, push in model.memory.items()}


def without(model: Model, channels: Channels, kept: Masks) -> Model:
    """The model whose devices hold the kept channels alone from now on, of which none is pushed."""
    left = {name: np.ones(np.count_nonzero(mask), np.bool_) for name, mask in kept.items()}
    return pushed(narrower(model, channels, kept), left, 0.0)


def narrower(model: Model, channels: Channels, kept: Masks) -> Model:
    """The model whose devices hold the kept channels alone from now on; which are pushed stays as it is."""
    masks = width_masks(*channels(), kept)
    return model._replace(parts={name: part._replace(masks=masks) for name, part in model.parts.items()})


def zeroed(made: Members, model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
    """The model with pushed channels at 0 that devices with half of the examples brought at 0: a mean is not there."""
    half, params = sum(each.weight for each in trained.values()) / 2, dict(model.params)
    for name, free in unpushed(model).items():
        if not free.all():  # else there is nothing to do, or the devices' channels are fewer than the members'
            there = sum(each.weight * ~rows(made[name], each.params).any(1) for each in trained.values())
            params |= scaled(made[name], params, ~free & (there >= half), 0.0)
    return model._replace(params=params)


def scaled(members: Sequence[Member], params: Params, chosen: Tensor, by: float) -> Params:
    """The members, with the rows of the chosen channels times ``by``."""
    there = {m.name: params[m.name].copy() for m in members}
    for m in members:
        at = m.positions[chosen].ravel()
        there[m.name][at] = there[m.name][at] * by + 0.0  # and no −0
    return there


def redundancy(rows: Tensor, grads: Tensor) -> Tensor:
    """½ cos(x, ∇L) + ½ / size(x) of each row x: high where a step downhill shrinks it, or it is small (OTOv2, §3.2).

    size(x) is the root mean square, in units of the mean over all rows: a batch norm leaves open how large those of a
    layer are. No criterion of single weights, but of whole channels, the higher the less worth keeping; +∞ at 0.

    >>> redundancy(np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [-1.0, 0.0], [1.0, 0.0]]))
    array([0.7, 0.5, inf])
    """
    norms, lengths = np.linalg.norm(rows, axis=1), np.linalg.norm(grads, axis=1)
    products = norms * lengths
    cosine = np.divide((rows * grads).sum(1), products, out=np.zeros(len(rows)), where=products > 0)
    score: Tensor = cosine / 2 + np.divide(norms.mean() / 2, norms, out=np.full(len(rows), np.inf), where=norms > 0)
    return score


def salience(rows: Tensor, grads: Tensor) -> Tensor:
    """A fifth each of ‖x‖, ‖x‖ / √n, ½ (1 − cos(x, ∇L)), |xᵀ∇L| and ½ (xᵀ∇L)² of each row x of n weights (HESSO, §3.2).

    Each in units of its mean over all rows, for what `redundancy` says, so that the first two are the same. In the
    mean a row has 1, or less where no gradient is there.

    >>> salience(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])).round(2)
    array([1.53, 0.47])
    """
    norms, along = np.linalg.norm(rows, axis=1), (rows * grads).sum(1, dtype=np.float64)
    products = norms * np.linalg.norm(grads, axis=1)
    cosine = np.divide(along, products, out=np.zeros(len(rows)), where=products > 0)
    parts = norms, norms, 1 - cosine, np.abs(along), along**2
    score: Tensor = np.sum([part / (part.mean() or 1.0) for part in parts], axis=0) / len(parts)
    return score
