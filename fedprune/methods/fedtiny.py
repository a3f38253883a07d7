"""FedTiny: adaptive batch-norm selection, then progressive pruning (Huang et al., ICDCS 2023, arXiv 2212.01977)."""

from collections.abc import Mapping
from typing import TypeVar

from fedprune.aggregation import mean_of_variances, pooled
from fedprune.methods import Shapes, density_in_range
from fedprune.pruning import candidates as bn_selection
from fedprune.pruning import criteria
from fedprune.pruning import turns as progressive
from fedprune.pruning.pruners import regrow
from fedprune.pruning.schedules import cosine
from fedprune.types import Masks, Method, Params

Choice = TypeVar("Choice")


def fedtiny(
    layers: Shapes,
    *,
    density: float,
    pool: int = 0,
    noise: str = "uniform",
    statistics: str = "mean",
    period: int = 10,
    stop: int = 100,
    fraction: float = 0.3,
    blocks: int = 5,
    granularity: str = "block",
    order: str = "backward",
    seed: int = 0,
) -> Method:
    """Choose among ``pool`` coarse masks (0: 0.1/density), then swap weights block by block until round ``stop``.

    At every ``period``-th round r one block swaps a_l = fraction/2 · (1 + cos(πr/stop)) of each layer's kept weights:
    grown by the devices' averaged gradients, dropped by magnitude. Ablations: ``noise`` uniform or erk; ``statistics``
    mean (the paper's), pooled (exact) or vanilla (candidates are compared without recalibration); ``granularity``
    block, layer or entire; ``order`` backward (from the output) or forward.
    """
    density_in_range(density)
    for key, value, least in (("pool", pool, 0), ("stop", stop, 0), ("blocks", blocks, 1)):
        if value < least:
            raise ValueError(f"{key} {value} is below {least}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} is outside [0, 1]")
    names = tuple(layers)
    draw = _named("noise", noise, {"uniform": bn_selection.around_uniform(), "erk": bn_selection.around_erk()})
    merge = _named("statistics", statistics, {"mean": mean_of_variances, "pooled": pooled, "vanilla": None})
    cut = {"block": progressive.blocks_by_name(names, blocks), "layer": progressive.by_layer(names)}
    parts = _named("granularity", granularity, {**cut, "entire": progressive.entire(names)})
    turns = _named("order", order, {"backward": progressive.backward(parts), "forward": parts})

    # Drawn here, so that a density that no candidate meets is refused before anything is trained.
    size = pool or bn_selection.pool_size(density)
    drawn = bn_selection.candidate_counts(dict(layers), density, size, seed=seed, noise=draw)

    def candidates(weights: Params) -> list[Masks]:
        return [bn_selection.candidate_masks(weights, counts) for counts in drawn]

    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    return Method(candidates, progressive.in_turn(turns, period, swap, until=stop), merge)


def _named(key: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    if name not in choices:
        raise ValueError(f"{key} {name!r} is not one of {', '.join(choices)}")
    return choices[name]
