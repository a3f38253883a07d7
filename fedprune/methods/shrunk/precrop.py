"""PreCrop: widths from the layer densities of pruning at initialisation (Cai et al., 2022, arXiv 2202.13526)."""

from collections.abc import Mapping

import numpy as np

from fedprune.graph.cropping import at_density, cropped
from fedprune.measures.flow import Thinned
from fedprune.methods.layers import Channels, Shapes, density_in_range, evidence, held
from fedprune.pruning import criteria, masks
from fedprune.pruning.allocation import ranked
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant, exponential
from fedprune.types import Ask, Found, Method, Model


def precrop(layers: Shapes, *, density: float, iterations: int = 100, channels: Channels) -> Method:
    """Crop every group of channels before round 1, so that layers have the weights that SynFlow would leave them.

    SynFlow's masks, in so many ``iterations``, say a density of each layer and are forgotten; a layer of density d gets
    about √d of its outputs and of its inputs, coupled ones alike (§3.2 (m): `graph.cropping`). In all, the narrow net
    has as many weights, biases and batch norms left out, as the sparse one would keep; it is dense, stored and computed
    as such. The first channels stay, since a choice among weights that are drawn alike says nothing; so do those of a
    pretrained net, of which that is not so. Where nobody answers, all layers have the same density. Not done: other
    methods' densities. `preconfig` optimises widths by themselves.
    """
    if not 1 <= iterations <= 1000:
        raise ValueError(f"iterations {iterations} is outside 1 to 1000")
    down = exponential(1.0, density_in_range(density), end=iterations)
    thinned = Thinned(tuple(layers), tuple(down(step) for step in range(1, iterations)))
    rule = prune(criteria.saliency, constant(density), allocate=ranked())
    groups, shapes = channels()
    if not groups:
        raise ValueError("the model has no channels that can be followed, so it has no width")
    total = at_density(shapes, layers, density)

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {} if round else {"grad": Ask("flow", thinned)}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        dense = Model(model.params, masks.ones_like(layers))
        sparse = rule.update(dense.masks, evidence(dense, found, rule), 0) if found.get("grad") else {}
        densities = masks.densities(sparse) or dict.fromkeys(layers, density)
        counts = cropped(groups, shapes, densities, total)
        units = {group.name: np.arange(group.size) < counts[group.name] for group in groups}
        return held(model, groups, shapes, units)

    return Method(Model, asks=asks, act=act)
