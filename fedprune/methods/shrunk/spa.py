"""SPA: coupled channels by any score of weights (Wang et al., Structurally Prune Anything, 2024, arXiv 2403.18955)."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from fedprune.graph.coupling import coupled
from fedprune.methods.channels import best_within, filled, reached, share_of_weights
from fedprune.methods.layers import Channels, Cost, Shapes, held
from fedprune.methods.reading import INPUTS, norms
from fedprune.pruning import criteria, masks
from fedprune.types import Ask, Found, Method, Model, Params, Scores

_KINDS = {"magnitude": "", "snip": "gradients", "wanda": "input_moments"}
"""Criterion -> the evidence that it reads besides weights."""
_NEAR = 0.98
"""Of a budget that is taken, where channels are small enough."""


def spa(
    layers: Shapes, *, criterion: str = "magnitude", keep: float = 0.0, macs: int = 0, flash_bytes: int = 0,
    sram_bytes: int = 0, channels: Channels, cost: Cost | None = None,
) -> Method:  # fmt: skip
    """Keep the best channels of all groups before training, as many as a budget holds: a narrow dense net.

    A channel scores the mean of its weights' scores in each layer that makes it, summed over these and divided by the
    mean of its group (§3.2 (m)); one ranking of all groups decides, and what is left of the budget goes to the next
    best that still fit. ``criterion``: ``magnitude`` |θ|, ``snip`` |θ · ∂L/∂θ|, ``wanda`` |θ| · ‖x‖, of all devices'
    examples. One budget: ``keep``, of the weights (half, where none is given); ``macs``, multiply-adds of an inference;
    ``flash_bytes``, all that the C sources take, code included, as predicted; ``sram_bytes``, their working memory.
    These three are counted of the very net that is cut, and met from below within 2 %, but where one channel is more
    than that. Where nobody answers, devices hold the first channels.
    """
    given = {"keep": keep, "macs": macs, "flash_bytes": flash_bytes, "sram_bytes": sram_bytes}
    target, most = _one_of({name: most for name, most in given.items() if most} or {"keep": 0.5})
    if criterion not in _KINDS:
        raise ValueError(f"criterion {criterion!r} is not one of {', '.join(_KINDS)}")
    groups, shapes = channels()
    if not groups:
        raise ValueError("the model has no channels that can be followed, so none can be pruned")
    if target == "keep":
        reached(most, groups, shapes)
    made = [m.name for group in groups for m in group.members if m.produces and len(m.shape) > 1]
    names, kind, pool = tuple(dict.fromkeys(made)), _KINDS[criterion], coupled(groups).pool
    takes = share_of_weights(groups, shapes) if cost is None or target == "keep" else partial(cost, target)

    def asks(model: Model, round: int, found: Found) -> Mapping[str, Ask]:
        return {INPUTS: Ask(kind, names)} if kind and not round else {}

    def act(model: Model, found: Found, round: int) -> Model:
        if round:
            return model
        if cost is None and target != "keep":
            raise ValueError(f"{target} of the model cannot be counted here; give keep")
        scores: Scores = {group.name: -np.arange(group.size) / group.size for group in groups}
        if not kind or found.get(INPUTS):
            sums = pool(_scored(kind, {name: model.params[name] for name in names}, found))
            scores = {name: each / (each.mean() or 1.0) for name, each in sums.items()}
        kept = best_within(scores, takes, most)
        if (least := takes(kept)) > most:
            raise ValueError(f"{target} {most} is less than the least net takes: {least}, of one channel a group")
        units = filled(scores, kept, takes, most, _NEAR)
        return held(model, groups, shapes, units)

    return Method(Model, asks=asks, act=act)


def _one_of(given: Mapping[str, float]) -> tuple[str, float]:
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; one budget is enough")
    ((target, most),) = given.items()
    if most < 0:
        raise ValueError(f"{target} {most} is below 0")
    return target, most


def _scored(kind: str, weights: Params, found: Found) -> Scores:
    if kind == "gradients":
        return {name: criteria.saliency(weight, found[INPUTS][name]) for name, weight in weights.items()}
    if kind:
        whole = Model(weights, masks.ones_like({name: weight.shape for name, weight in weights.items()}))
        read = norms(whole, found)
        return {name: criteria.carried(weight, read[name]) for name, weight in weights.items()}
    return {name: criteria.magnitude(weight) for name, weight in weights.items()}
