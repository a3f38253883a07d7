"""FLAP: channels whose inputs hardly vary go, and biases take their place (An et al., AAAI 2024, arXiv 2312.11983)."""

from collections.abc import Mapping
from math import prod

import numpy as np

from fedprune.graph.width import width_masks
from fedprune.methods.channels import best_within, reached, share_of_weights
from fedprune.methods.layers import Channels, Shapes
from fedprune.methods.reading import INPUTS
from fedprune.pruning.parts import statistics
from fedprune.types import Ask, Found, Method, Model, Part, Scores


def flap(layers: Shapes, *, keep: float = 0.5, compensate: bool = True, channels: Channels) -> Method:
    """Keep the channels of the largest Σ Var(x_j) ‖W_:j‖² (eq. 5 (m)), before training, and ``keep`` of all weights.

    The sum is over the columns that read a channel, in all layers that do; of each group it is standardised, to mean 0
    and variance 1, and one ranking of all groups decides (eq. 6 (m)). What a channel costs counts by the weights that
    are left, exactly. Where ``compensate``, the bias of a layer takes what its removed columns gave in the mean (eq. 4
    (m)); of one without, the running mean of its batch norm; of one without that nothing does. Moments are those of all
    devices' examples, merged exactly. Padding is read as well, so that a channel that is constant is exactly made up
    for where there is none. Neurons of a perceptron are such channels, and heads, which the projection after them
    reads. Where nobody answers, devices hold the first channels as they are.
    """
    groups, shapes = channels()
    if not groups:
        raise ValueError("the model has no channels that can be followed, so none can be pruned")
    reached(keep, groups, shapes)
    readers = {group.name: [member for member in group.members if not member.produces] for group in groups}
    names = list(dict.fromkeys(member.name for members in readers.values() for member in members))
    norms = {layer: norm for group in groups for layer, norm in group.norms.items()}

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {INPUTS: Ask("input_moments", names)}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        read = found.get(INPUTS) or {}
        read = read if all(f"{name}/mean" in read for name in names) else {}
        scores: Scores = {group.name: -np.arange(group.size) / group.size for group in groups}
        # (groups, outputs, columns), of a layer of which each group of outputs reads its own channels
        rows = {n: model.params[n].reshape(len(read[f"{n}/mean"]), -1, prod(shapes[n][1:])) for n in names if read}
        if read:
            spread = {n: read[f"{n}/variance"].reshape(len(rows[n]), -1) for n in names}
            felt = {n: np.einsum("gj,goj->j", spread[n], np.square(rows[n], dtype=np.float64)) for n in names}
            sums = {g: np.sum([felt[m.name][m.columns].sum(1) for m in readers[g]], axis=0) for g in readers}
            scores = {g: (each - each.mean()) / (each.std() or 1.0) for g, each in sums.items()}
        kept = width_masks(groups, shapes, best_within(scores, share_of_weights(groups, shapes), keep))
        params, own = dict(model.params), dict(statistics(model.params))
        for name, weight in rows.items() if compensate else ():
            gone = ~kept[name].reshape(weight.shape).any((0, 1))
            mean = read[f"{name}/mean"].reshape(len(weight), -1)
            lost = np.einsum("gj,goj->go", mean[:, gone], weight[..., gone]).ravel()
            layer = name.removesuffix(".weight")
            if (bias := f"{layer}.bias") in params:
                params[bias] = (params[bias] + lost).astype(params[bias].dtype)
            elif (shift := f"{norms.get(layer)}.running_mean") in own:
                own[shift] = (own[shift] - lost).astype(own[shift].dtype)
        return model._replace(params=params, parts={"narrow": Part(own, kept)})

    return Method(Model, asks=asks, act=act)
