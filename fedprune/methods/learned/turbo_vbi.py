"""Turbo-VBI: a posterior that finds weights to keep, in runs (Xia et al., IEEE TSP 71, 2023, arXiv 2302.10483)."""

from collections.abc import Mapping

import numpy as np

from fedprune.aggregation import product_of_gaussians
from fedprune.methods.layers import Shapes, above_zero, dense, density_in_range, from_to, masked
from fedprune.pruning import masks
from fedprune.pruning.allocation import ranked
from fedprune.pruning.chains import extrinsic, sigmoid
from fedprune.pruning.pruners import prune
from fedprune.pruning.schedules import constant
from fedprune.training.gaussian_weights import FAST, through_gaussians
from fedprune.types import DeviceId, Found, Local, Method, Model, Params, Tensor, Trained

_SPREAD, _PRECISION = "spread/", "precision/"
_BEGIN = -8.0  # log σ²


def turbo_vbi(
    layers: Shapes, *, density: float, cling: float = 0.1, examples: float = 1e4, active: float = 1.0,
    inactive: float = 1e-3, stop: int = 10, seed: int = 0,
) -> Method:  # fmt: skip
    """Infer q(w) = N(μ, σ²), of w ~ N(0, 1/ρ), ρ ~ Gamma(1, ``active``) where kept, Gamma(1, ``inactive``) elsewhere.

    Devices minimise E_q CE + KL / ``examples``, by one draw a step (module A, `training.gaussian_weights`); the server
    multiplies their Gaussians. It then finds, m = (μ² + σ²) / 2, a weight's odds by its size, log b/b̄ − 3/2 log (b + m)
    / (b̄ + m), with ρ integrated out, its neighbours' word (module B, `pruning.chains`; ``cling`` 0 is the i.i.d.
    prior), and E ρ = 3/2 (q / (b + m) + (1 − q) / (b̄ + m)), which devices get. After round ``stop`` the ``density`` of
    all weights of the largest odds is kept, and trained on as they are.

    Not as there: a density is asked for, where s ≥ ½ decides, and it is the prior's as well; ``cling`` is given, where
    EM finds p01 and p10; q(ρ, s) is joint, which is a closer bound than q(ρ) q(s), whose weights stay kept or not as
    they begin; biases and layers that are not pruned are no Gaussians. ``examples`` is more than a small fleet has, a
    tempered posterior: at 1,000 of 1,300 digits all weights of a perceptron went to 0 here. Until masks are drawn the
    product stands in for what `training.aggregate` and the server's optimiser say of those layers, and weight decay
    adds to the prior. (m): a = ā = 1, b and b̄.
    """
    if not 0 <= cling < 1:
        raise ValueError(f"cling {cling} is outside [0, 1)")
    above_zero(examples=examples, inactive=inactive)
    if not active > inactive:
        raise ValueError(f"active {active} is not above inactive, {inactive}")
    from_to("stop", stop, 1)
    best = prune(lambda odds: odds, constant(density_in_range(density)), allocate=ranked())
    share = min(density, 0.999)  # a prior that is sure hears nobody

    def inferred(model: Model) -> tuple[Model, Params]:
        odds, precisions = dict[str, Tensor](), dict[str, Tensor]()
        for name in layers:
            m = 0.5 * (model.params[name].astype(float) ** 2 + np.exp(FAST * model.memory[_SPREAD + name]))
            own = np.log(active / inactive) - 1.5 * np.log((active + m) / (inactive + m))
            odds[name] = own + extrinsic(own, share, cling)
            q = sigmoid(odds[name])
            precisions[_PRECISION + name] = (1.5 * (q / (active + m) + (1 - q) / (inactive + m))).astype(np.float32)
        return model._replace(memory={**model.memory, **precisions}), odds

    def start(params: Params) -> Model:
        spreads = {_SPREAD + name: np.full(shape, _BEGIN / FAST, np.float32) for name, shape in layers.items()}
        return inferred(dense(layers)(params)._replace(memory=spreads))[0]

    def join(model: Model, trained: Mapping[DeviceId, Trained]) -> Model:
        if masks.density(model.masks) < 1:  # weights are no Gaussians any more
            return model
        params, memory = dict(model.params), dict(model.memory)
        for name in layers:
            parts = [(t.params[name], FAST * t.own[_SPREAD + name], t.weight) for t in trained.values()]
            mean, log_variance = product_of_gaussians(parts)
            params[name], memory[_SPREAD + name] = mean.astype(np.float32), (log_variance / FAST).astype(np.float32)
        return model._replace(params=params, memory=memory)

    def act(model: Model, found: Found, round: int) -> Model:
        if round > stop:
            return model
        model, odds = inferred(model)
        return masked(model, best.update(model.masks, {"odds": odds}, round)) if round == stop else model

    spreads, precisions = (tuple(prefix + name for name in layers) for prefix in (_SPREAD, _PRECISION))
    local = Local(
        through_gaussians(tuple(layers), _SPREAD, _PRECISION, examples, until=stop, seed=seed),
        trains=spreads, reads=precisions,
    )  # fmt: skip
    return Method(start, local=local, join=join, act=act)
