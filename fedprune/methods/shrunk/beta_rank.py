"""β-rank: filters by how much of what varies they let through, classes alike (Shu et al., 2023, arXiv 2304.07461)."""

from collections.abc import Mapping

import numpy as np

from fedprune.graph.width import first_channels
from fedprune.measures.filter_moments import Filters
from fedprune.methods.layers import Channels, Shapes, held
from fedprune.methods.rewinding import output_layer
from fedprune.pruning.topk import top_k
from fedprune.types import Ask, Found, Method, Model, Tensor

_CLASSES, _MOMENTS = "classes", "moments"


def beta_rank(layers: Shapes, *, width: float, balanced: bool = True, channels: Channels) -> Method:
    """Keep ⌈width · C⌉ of the C channels of every group, those of the highest ‖f‖₁ · mean(σ_out / σ_in), once.

    f is a filter, σ_out how much what it makes varies over examples at a place, σ_in how much what it reads there does
    (the root of the mean variance of its patch (m)); the mean is over places, at most 16 of a map, where the paper
    takes all. Of each layer scores go from 0 to 1, and layers that share a channel count alike. Devices say how many
    examples of each class they have, then moments in which all classes of the fleet weigh the same, merged exactly;
    not so where ``balanced`` is false, as for tasks without classes. All groups have the same width, the paper one that
    is chosen by hand. Where nobody answers, devices hold the first channels, and of attention always the first heads.
    """
    groups, shapes = channels()
    first = first_channels(groups, width)
    made = {group.name: [m for m in group.members if m.produces and len(m.shape) > 1] for group in groups}
    names = tuple(dict.fromkeys(member.name for members in made.values() for member in members))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        if round:
            return {}
        if balanced and _CLASSES not in found:
            return {_CLASSES: Ask("counts", len(model.params[output_layer(model.params)]))}
        counts = found[_CLASSES].get("classes", np.zeros(0)) if balanced else np.zeros(0)
        return {_MOMENTS: Ask("filter_moments", Filters(names, alike(counts)))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        best, moments = dict(first), found.get(_MOMENTS) or {}
        for name, units in first.items() if moments else ():
            scores = [beta(model.params[m.name], moments, m.name)[m.positions].mean(1) for m in made[name]]
            best[name] = top_k(np.mean(scores, axis=0), int(units.sum()))
        return held(model, groups, shapes, best)

    return Method(Model, asks=asks, act=act)


def alike(counts: Tensor) -> tuple[float, ...]:
    """What an example of each class weighs, so that classes with as many ``counts`` weigh the same, and all 1 in mean.

    >>> alike(np.array([1, 3, 0]))
    (2.0, 0.6666666666666666, 0.0)
    """
    there = counts > 0
    weights = np.divide(counts.sum(), there.sum() * counts, out=np.zeros(counts.shape), where=there)
    return tuple(float(each) for each in weights)


def beta(weight: Tensor, moments: Mapping[str, Tensor], name: str) -> Tensor:
    """(out,): ‖f_k‖₁ · mean over places of σ_out / σ_in, from 0, the least, to 1; what reads nothing gives 0.

    >>> moments = {"w/read": np.array([4.0, 0.0]), "w/made": np.array([[16.0, 0.0], [4.0, 0.0], [0.0, 0.0]])}
    >>> beta(np.array([[1.0], [-2.0], [3.0]]), moments, "w")
    array([1., 1., 0.])
    """
    read, made = np.sqrt(moments[f"{name}/read"]), np.sqrt(moments[f"{name}/made"])
    through = np.divide(made, read, out=np.zeros(made.shape), where=read > 0).mean(1)
    raw = np.abs(weight.reshape(len(weight), -1)).sum(1) * through
    return np.asarray((raw - raw.min()) / ((raw.max() - raw.min()) or 1.0))
