"""OBSPA: coupled channels removed by optimal brain surgery (Wang et al., Structurally Prune Anything, 2403.18955)."""

from collections.abc import Mapping

import numpy as np

from fedprune.graph.width import first_channels, width_masks
from fedprune.methods.layers import Channels, Shapes
from fedprune.pruning import obs
from fedprune.pruning.parts import statistics
from fedprune.types import Ask, Found, Method, Model, Part, Tensor


def obspa(layers: Shapes, *, width: float, damping: float = 0.01, noise: bool = False, channels: Channels) -> Method:
    """Keep ⌈width · C⌉ of the C channels of every group, those whose loss nothing makes up for; no training is needed.

    A channel costs what the layers that read it lose without it, each as a part of its outputs, summed over those
    layers; the cheapest goes, the others make up for it, and again (OBS). Then each of these layers is fitted anew to
    its outputs before, with H = XᵀX of the dense model, summed over devices that see their training examples, or noise.
    (m): ``damping``, a part of the mean of H's diagonal that is added to it; that groups, not layers, go one after the
    other with H of the dense model. Not done: new statistics of batch norms (training takes them anew), and a budget
    shared among groups. Where nobody answers, devices hold the first channels as they are.
    """
    if not damping >= 0:
        raise ValueError(f"damping {damping} is below 0")
    groups, shapes = channels()
    groups = [group for group in groups if not any(member.groups > 1 for member in group.members)]  # no one H
    units = first_channels(groups, width)
    readers = {group.name: [member for member in group.members if not member.produces] for group in groups}
    names = list(dict.fromkeys(member.name for members in readers.values() for member in members))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {"gram": Ask("gram_of_noise" if noise else "gram", names)}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        flat: dict[str, Tensor] = {name: model.params[name].reshape(shapes[name][0], -1) for name in names}
        fitted, best = dict[str, Tensor](), dict(units)
        gram = {name: obs.damped(found["gram"][name], damping) for name in names if found["gram"]}
        for name, members in readers.items() if gram else ():
            read = [obs.Reader(flat[member.name], gram[member.name], member.columns) for member in members]
            best[name] = obs.best_units(read, int(units[name].sum()))
        kept = width_masks(groups, shapes, best)
        for name, whole in gram.items():
            columns = np.any(kept[name].reshape(flat[name].shape), axis=0)
            fitted[name] = obs.refitted(flat[name], whole, columns).reshape(shapes[name])
        part = Part(statistics(model.params), kept)
        return model._replace(params={**model.params, **fitted}, parts={"narrow": part})

    return Method(Model, asks=asks, act=act)
