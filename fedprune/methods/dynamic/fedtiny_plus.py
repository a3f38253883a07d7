"""FedTiny whose one candidate the server prunes little by little while it pretrains: no paper's, after 2212.01977."""

from math import ceil

from fedprune.methods.dynamic.fedtiny import progressive
from fedprune.methods.layers import Shapes, density_in_range, fractions_in_range, pruned_once
from fedprune.pruning import criteria, masks
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant, cubic
from fedprune.types import Masks, Method, Params


def fedtiny_plus(
    layers: Shapes, *, density: float, settled: float = 0.7, period: int = 10, stop: int = 100, fraction: float = 0.3,
    blocks: int = 5,
) -> Method:  # fmt: skip
    """Prune while the server pretrains, by GMP's cubic over ``settled`` of its epochs, then swap weights as FedTiny.

    FedTiny's candidates are all cut at once from the weights that pretraining came to, and their losses then tell
    little of what training makes of them. Here the largest |θ| of each layer are kept from epoch to epoch, down to
    ``density``, and the rest of pretraining trains what is left. It costs devices nothing, and less goes down: what
    they get first is sparse. Without public examples, or with weights that are given and not pretrained, the largest
    are kept at once.
    """
    fractions_in_range(settled=settled)
    asks, act = progressive(layers, period=period, stop=stop, fraction=fraction, blocks=blocks)

    def pretraining(params: Params, epoch: int, epochs: int) -> Masks:
        along = cubic(1.0, density, end=ceil(settled * epochs))
        weights = {name: params[name] for name in layers}
        return prune(criteria.magnitude, along).update(masks.ones_like(layers), {"weight": weights}, epoch)

    return Method(
        pruned_once(layers, prune(criteria.magnitude, constant(density_in_range(density)))).start,
        asks=asks,
        act=act,
        pretraining=pretraining,
    )
