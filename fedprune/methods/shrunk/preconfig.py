"""PreConfig: widths by what they add to SynFlow's R under a budget (Cai et al., 2022, arXiv 2202.13526)."""

from collections.abc import Mapping

import numpy as np

from fedprune.graph.cropping import at_density, configured
from fedprune.measures.flow import Thinned
from fedprune.methods.layers import Channels, Shapes, density_in_range, held
from fedprune.types import Ask, Found, Method, Model

_LEAST = 1e-3
"""What a group is worth at least, in R, through which next to nothing flows."""


def preconfig(layers: Shapes, *, density: float, channels: Channels) -> Method:
    """Narrow every group of channels before round 1 so that R is largest with the weights that ``density`` leaves.

    R = 1ᵀ(∏ |θ|)1 is the flow of ones through the net of absolute weights. Over random weights it is in proportion to
    the channels of a group as often as paths read them: once in a chain, more often in a residual stream. How often is
    Σ |θ · ∂R/∂θ| over the layers that read a group, in R, of the whole net; the widths are those of the largest
    Σ often · ln width (§3.3 (m): `graph.cropping.configured`), ours in place of the paper's gradient steps on relaxed
    widths. In a chain wide layers and bottlenecks come to take turns. Biases and batch norms are left out of the
    budget. The first channels stay, as in `precrop`. Where nobody answers, each counts once.
    """
    groups, shapes = channels()
    if not groups:
        raise ValueError("the model has no channels that can be followed, so it has no width")
    total = at_density(shapes, layers, density_in_range(density))
    read = {g.name: [m.name for m in g.members if not m.produces and len(m.shape) > 1] for g in groups}
    names = tuple(dict.fromkeys(name for readers in read.values() for name in readers))

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {"grad": Ask("flow", Thinned(names))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        flow = found.get("grad") or {}
        passed = {name: float(np.abs(model.params[name] * each).sum()) for name, each in flow.items()}
        whole = max(passed.values(), default=0.0)
        # of a net through which nothing flows each is as good as the other
        alike = not 0 < whole < np.inf
        often = {name: 1.0 if alike else sum(map(passed.__getitem__, of)) / whole for name, of in read.items()}
        often = {name: max(each, _LEAST) for name, each in often.items()}
        counts = configured(groups, shapes, often, total)
        units = {group.name: np.arange(group.size) < counts[group.name] for group in groups}
        return held(model, groups, shapes, units)

    return Method(Model, asks=asks, act=act)
