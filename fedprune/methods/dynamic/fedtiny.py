"""FedTiny: adaptive batch-norm selection, then progressive pruning (Huang et al., ICDCS 2023, arXiv 2212.01977)."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from fedprune.aggregation import mean_of_variances, pooled
from fedprune.methods.layers import Shapes, adjusted, dense, density_in_range, fractions_in_range, from_to, masked
from fedprune.pruning import candidates, criteria, masks
from fedprune.pruning.candidates import Pool
from fedprune.pruning.pruners import regrow
from fedprune.pruning.schedules import cosine
from fedprune.pruning.turns import backward, blocks_by_name, by_layer, entire, in_turn
from fedprune.types import Ask, Found, Masks, Method, Model

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
    from_to("pool", pool, 0)
    draw = _named("noise", noise, {"uniform": candidates.around_uniform(), "erk": candidates.around_erk()})
    merge = _named("statistics", statistics, {"mean": mean_of_variances, "pooled": pooled, "vanilla": None})
    swaps, swapped = progressive(
        layers, period=period, stop=stop, fraction=fraction, blocks=blocks, granularity=granularity, order=order
    )

    # Drawn here, so that a density that no candidate meets is refused before anything is trained.
    size = pool or candidates.pool_size(density)
    drawn = candidates.candidate_counts(dict(layers), density, size, seed=seed, noise=draw)

    def coarse(model: Model) -> list[Masks]:
        weights = {name: model.params[name] for name in layers}
        return [masks.intersect(candidates.candidate_masks(weights, counts), model.masks) for counts in drawn]

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        if round or len(drawn) == 1:
            return swaps(model, round, found)
        if merge is not None and "statistics" not in found:
            return {"statistics": Ask("bn_statistics", Pool(coarse(model), merge))}
        told = found.get("statistics", {})
        return {"losses": Ask("losses", Pool(coarse(model), merge or mean_of_variances, told))}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return swapped(model, found, round)
        best = candidates.choose(found.get("losses", {}))
        own = candidates.statistics_of(best, found.get("statistics", {}))
        return masked(model._replace(params={**model.params, **own}), coarse(model)[best])

    return Method(dense(layers), asks=asks, act=act)


def progressive(
    layers: Shapes, *, period: int, stop: int, fraction: float, blocks: int, granularity: str = "block",
    order: str = "backward",
) -> tuple[Callable[..., Mapping[str, Ask]], Callable[..., Model]]:  # fmt: skip
    """``asks`` and ``act`` of FedTiny's progressive pruning; ValueError names a parameter that is out of its range."""
    from_to("stop", stop, 0)
    from_to("blocks", blocks, 1)
    fractions_in_range(fraction=fraction)
    names = tuple(layers)
    cut = {"block": blocks_by_name(names, blocks), "layer": by_layer(names), "entire": entire(names)}
    turns = _named("granularity", granularity, cut)
    order_of = _named("order", order, {"backward": backward(turns), "forward": turns})
    swap = regrow(criteria.magnitude, criteria.gradient, cosine(fraction, end=stop))
    return adjusted(in_turn(order_of, period, swap, until=stop))


def _named(key: str, name: str, choices: Mapping[str, Choice]) -> Choice:
    if name not in choices:
        raise ValueError(f"{key} {name!r} is not one of {', '.join(choices)}")
    return choices[name]
