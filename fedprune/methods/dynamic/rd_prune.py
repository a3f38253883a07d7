"""RD-prune: layers share a budget so that outputs are distorted least (Xu et al., ICCV 2023, arXiv 2308.10438)."""

from collections.abc import Mapping

import numpy as np

from fedprune.measures.distortion import Curves, kept_of
from fedprune.methods.layers import Shapes, dense, density_in_range, masked
from fedprune.pruning.knapsack import cheapest
from fedprune.pruning.schedules import exponential
from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import Ask, Found, Method, Model


def rd_prune(
    layers: Shapes, *, density: float, levels: int = 5, period: int = 2, grid: int = 20, examples: int = 256,
    worst: bool = False, noise: bool = False,
) -> Method:  # fmt: skip
    """Every ``period`` rounds from 0 on, ``levels`` times, keep the largest |θ| of layers, shared out by a knapsack.

    Devices measure δ_l, the squared distance of outputs when layer l alone keeps a share of what it has left, 1 to
    ``grid`` ``grid``ths of it, in the mean over at most so many ``examples`` of each; or, ``worst``, the largest of all
    (the worst case variant); with ``noise``, of so many inputs that are nobody's (the one without data). Taken that
    they add up (§3 (m)), the least Σ δ_l within the budget is found exactly (`pruning.knapsack`); what the grid leaves
    over goes to the layers that gave most. Density falls by the same factor a level, as 20 % there, to ``density``.
    Where nobody measures, every layer loses the same share. (m): 100 points, 1,024 examples.
    """
    for key, value in (("levels", levels), ("period", period), ("grid", grid), ("examples", examples)):
        if value < 1:
            raise ValueError(f"{key} {value} is below 1")
    down, names, steps = exponential(1.0, density_in_range(density), end=levels), tuple(layers), range(1, grid)
    curves = Curves(names, tuple(step / grid for step in steps), examples)

    def due(round: int) -> bool:
        return round % period == 0 and round // period < levels

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {"curves": Ask("distortion_of_noise" if noise else "distortion", curves)} if due(round) and steps else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if not due(round):
            return model
        has = {name: int(np.count_nonzero(model.masks[name])) for name in names}
        total = kept_count(down(round // period + 1), sum(mask.size for mask in model.masks.values()))
        counts = {name: kept_count(min(1.0, total / max(1, sum(has.values()))), many) for name, many in has.items()}
        if measured := found.get("curves"):
            sizes = [[kept_of(model.params[n], f) for f in curves.fractions] + [has[n]] for n in names]
            costs = np.pad(measured["worst" if worst else "mean"], ((0, 0), (0, 1)))
            chosen = cheapest(list(costs), sizes, max(total, sum(min(each) for each in sizes)))
            counts = {n: each[level] for n, each, level in zip(names, sizes, chosen, strict=True)}
        for name in sorted(names, key=lambda name: counts[name] - has[name]):
            counts[name] += max(0, min(has[name] - counts[name], total - sum(counts.values())))
        sized = {name: np.where(mask, np.abs(model.params[name]), -np.inf) for name, mask in model.masks.items()}
        return masked(model, {name: top_k(sized[name], counts[name]) for name in names})

    return Method(dense(layers), asks=asks, act=act)
