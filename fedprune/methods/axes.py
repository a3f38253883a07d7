"""The axes by which surveys order pruning methods (Cheng, Zhang and Shi, TPAMI 2024, arXiv 2308.06767, fig. 2).

Each follows from a method's keys and from what it does when it is rehearsed: none is said by hand, none forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedprune.measures import find
from fedprune.methods.asking import Acts
from fedprune.pruning import masks
from fedprune.types import Local, Model


class Axes(NamedTuple):
    """Where a method stands among others."""

    prunes: str
    """What goes together: weights, N:M groups, channels, layers; or nothing, where it prunes nothing of its own."""
    when: str
    """Before or during training."""
    often: str
    """One-shot or iterative."""
    how: str
    """By a criterion; learnt, where training itself makes weights small, or moves masks; or by draw or place, whatever
    the weights and the data."""
    data: str
    """Data-free or data-driven: whether devices measure anything for it, or train in a way of its own."""


def axes(keys: Mapping[str, object], model: Model, other: Model, acts: Sequence[Acts], local: Local) -> Axes:
    """Of a method with these ``keys``, from the ``model`` before round 1, its rounds, and its device half.

    ``other`` is the model that it begins with from other weights.
    """
    later = [each.round for each in acts if each.round and (each.asks or each.changes)]
    kinds = {ask.kind for each in acts for ask in each.asks.values()}
    pruned = not all(mask.all() for mask in model.masks.values())
    own = bool(local.trains or local.around or local.optimiser or (local.loss and not pruned))
    prunes = _prunes(keys, model, pruned or bool(later and model.masks))
    learnt = own and prunes != "nothing" and not kinds & {"top_gradients", "bn_statistics"} and not local.reports
    seen = learnt or local.examples is not None or local.reports or not all(find(kind).private for kind in kinds)
    alike = masks.equal(model.masks, other.masks) and all(
        masks.equal(part.masks, other.parts[name].masks) for name, part in model.parts.items()
    )
    drawn = alike and not later and not kinds and (pruned or bool(model.parts))
    if prunes == "nothing":
        return Axes(prunes, "never", "never", "by nothing", "data-driven" if seen else "data-free")
    return Axes(
        prunes,
        "during training" if later or learnt else "before training",
        "iterative" if len(later) > 1 else "one-shot",
        "learnt" if learnt else "by draw or place" if drawn else "by a criterion",
        "data-driven" if seen else "data-free",
    )


def _prunes(keys: Mapping[str, object], model: Model, some: bool) -> str:
    if {"n", "m"} <= keys.keys():
        return "N:M groups"
    if "remove" in keys:
        return "layers"
    if model.parts or keys.keys() & {"keep", "width"}:
        return "channels"
    return "weights" if some or "density" in keys else "nothing"
