"""The lottery ticket hypothesis: prune, reset the survivors to θ₀ (Frankle & Carbin, ICLR 2019, arXiv 1803.03635)."""

from fedprune.methods.layers import Shapes
from fedprune.methods.rewinding import falling, output_layer, rewound
from fedprune.pruning.allocation import half_as_fast
from fedprune.types import Allocation, Method, Params


def lth(layers: Shapes, *, density: float, levels: int = 5, period: int = 4) -> Method:
    """Prune the least |θ| of every layer after each ``period`` rounds, ``levels`` times, and go on from θ₀ (§1, §2).

    All layers lose the same fraction at a level, and the output layer, where it is pruned at all, half of it; with the
    paper's 20 % a level, ``levels`` is ln(density) / ln(0.8). Rounds stand for its training: ``period`` of them before
    each pruning, and those after the last level train the ticket. θ₀ is what the run starts from, the seed's weights
    where pretraining has no epochs. Not done: the learning rate is the round's and does not begin anew; and devices,
    which the server could send a mask alone, get θ₀ ⊙ m like any weights.
    """

    def share(params: Params, level: int) -> Allocation:
        return half_as_fast([output_layer(params)], level)

    return rewound(layers, falling(density, levels, share), levels, period)
