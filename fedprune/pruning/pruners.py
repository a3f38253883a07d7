"""Pruners: rules from masks and evidence to masks, and the combinators that say when and where a rule acts."""

from collections.abc import Callable, Iterable

import numpy as np

from fedprune.pruning import criteria
from fedprune.pruning.allocation import uniform
from fedprune.pruning.granularity import unstructured
from fedprune.pruning.topk import kept_count, top_k
from fedprune.types import (
    Allocation,
    BoolTensor,
    Criterion,
    Evidence,
    Granularity,
    Masks,
    Pruner,
    Schedule,
    Scores,
    Tensor,
)


def prune(
    by: Criterion, to: Schedule, *, across: Granularity = unstructured, allocate: Allocation = uniform,
    best: Callable[[Tensor, int], BoolTensor] = top_k,
) -> Pruner:  # fmt: skip
    """Keep the best-scored units, down to the density ``to(step)``; what is pruned already is never revived.

    ``best`` says which units of a layer these are, given their scores and how many they are.

    >>> masks, weights = {"w": np.array([True, True, True, True])}, {"w": np.array([3.0, -4.0, 1.0, 0.5])}
    >>> prune(criteria.magnitude, to=lambda step: 0.5).update(masks, {"weight": weights}, 1)
    {'w': array([ True,  True, False, False])}
    """

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        alive = across.pool({name: mask.astype(np.float32) for name, mask in masks.items()})
        pooled = across.pool(score(by, evidence, masks))
        scores = {name: np.where(alive[name] > 0, value, -np.inf) for name, value in pooled.items()}
        densities = allocate(scores, to(step))
        kept = {name: best(value, kept_count(densities[name], value.size)) for name, value in scores.items()}
        spread = across.spread(kept, masks)
        return {name: mask & spread[name] if name in spread else mask for name, mask in masks.items()}

    return Pruner(frozenset(criteria.needs(by)), update)


def grow(by: Criterion, to: Schedule, *, allocate: Allocation = uniform) -> Pruner:
    """Revive the best-scored pruned weights, up to the density ``to(step)``; what is kept is never dropped.

    >>> masks, gradients = {"w": np.array([True, False, False, False])}, {"w": np.array([0.0, 0.1, -2.0, 0.5])}
    >>> grow(criteria.gradient, to=lambda step: 0.5).update(masks, {"grad": gradients}, 1)
    {'w': array([ True, False,  True, False])}
    """

    def grows(masks: Masks, step: int) -> dict[str, int]:
        densities = allocate({name: np.ones(mask.shape) for name, mask in masks.items()}, to(step))
        target = {name: kept_count(densities[name], mask.size) for name, mask in masks.items()}
        short = {name: target[name] - int(np.count_nonzero(mask)) for name, mask in masks.items()}
        return {name: count for name, count in short.items() if count > 0}

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        counts = grows(masks, step)
        scores = score(by, evidence, {name: masks[name] for name in counts})
        return {**masks, **{name: masks[name] | _best(scores[name], ~masks[name], counts[name]) for name in counts}}

    return Pruner(frozenset(criteria.needs(by)), update, grows)


def regrow(drop_by: Criterion, grow_by: Criterion, fraction: Schedule) -> Pruner:
    """Swap a fraction of each layer's kept weights for as many pruned ones: every layer keeps its density.

    a = min(⌊fraction(step) · kept⌋, pruned). The a best by ``grow_by`` among the positions pruned before are grown,
    the a worst by ``drop_by`` among those kept before are dropped, so that nothing just grown is dropped and nothing
    just dropped regrown (SET; RigL, alg. 1; FedTiny, alg. 2).

    >>> masks, weights = {"w": np.array([True, True, False, False])}, {"w": np.array([3.0, 0.1, 0.0, 0.0])}
    >>> evidence = {"weight": weights, "grad": {"w": np.array([0.0, 0.0, 0.2, 0.9])}}
    >>> regrow(criteria.magnitude, criteria.gradient, lambda step: 0.5).update(masks, evidence, 1)
    {'w': array([ True, False, False,  True])}
    """

    def grows(masks: Masks, step: int) -> dict[str, int]:
        counts = {name: _swaps(mask, fraction(step)) for name, mask in masks.items()}
        return {name: count for name, count in counts.items() if count}

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        counts = grows(masks, step)
        here = {name: masks[name] for name in counts}
        grown, dropped = score(grow_by, evidence, here), score(drop_by, evidence, here)
        swapped = {
            name: (mask | _best(grown[name], ~mask, counts[name])) & ~_best(-dropped[name], mask, counts[name])
            for name, mask in here.items()
        }
        return {**masks, **swapped}

    return Pruner(frozenset([*criteria.needs(drop_by), *criteria.needs(grow_by)]), update, grows)


def refill(free_by: Criterion, fill_by: Criterion, fraction: Schedule, to: Schedule) -> Pruner:
    """Free a fraction of each layer's kept weights, and fill up to ``to(step)`` of all layers by another criterion.

    ⌊fraction(step) · kept⌋ of a layer, the worst by ``free_by``, are free. They and what is pruned compete for the rest
    of the density, best by ``fill_by``, so that layers trade weights (PruneFL, alg. 2, at a density that is given).

    >>> masks, weights = {"w": np.array([True, True, False, False])}, {"w": np.array([3.0, 0.1, 0.0, 0.0])}
    >>> evidence = {"weight": weights, "grad": {"w": np.array([0.0, 0.5, 0.2, 0.9])}}
    >>> refill(criteria.magnitude, criteria.gradient, lambda step: 0.5, lambda step: 0.5).update(masks, evidence, 1)
    {'w': array([ True, False, False,  True])}
    """

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        sizes, fill = score(free_by, evidence, masks), score(fill_by, evidence, masks)
        alive = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
        held = {n: _best(sizes[n], mask, alive[n] - int(fraction(step) * alive[n])) for n, mask in masks.items()}
        left = kept_count(to(step), sum(mask.size for mask in masks.values())) - sum(
            map(np.count_nonzero, held.values())
        )
        free = np.concatenate([np.where(held[n], -np.inf, fill[n]).ravel() for n in masks])
        parts = np.split(top_k(free, max(0, int(left))), np.cumsum([mask.size for mask in masks.values()])[:-1])
        return {n: held[n] | part.reshape(held[n].shape) for n, part in zip(masks, parts, strict=True)}

    return Pruner(frozenset([*criteria.needs(free_by), *criteria.needs(fill_by)]), update)


def chain(*pruners: Pruner) -> Pruner:
    """One after the other, each on the masks that the one before left.

    >>> masks, evidence = {"w": np.array([True] * 3)}, {"weight": {"w": np.array([1.0, 3.0, 2.0])}}
    >>> two, one = (prune(criteria.magnitude, to=lambda step, n=n: n / 3) for n in (2, 1))
    >>> chain(two, one).update(masks, evidence, 1)
    {'w': array([False,  True, False])}
    """

    def update(masks: Masks, evidence: Evidence, step: int) -> Masks:
        for pruner in pruners:
            masks = pruner.update(masks, evidence, step)
        return masks

    def grows(masks: Masks, step: int) -> dict[str, int]:
        counts: dict[str, int] = {}
        for pruner in pruners:
            for name, count in pruner.grows(masks, step).items():
                counts[name] = max(count, counts.get(name, 0))
        return counts

    return Pruner(frozenset().union(*(pruner.needs for pruner in pruners)), update, grows)


def every(period: int, pruner: Pruner, *, until: int | None = None) -> Pruner:
    """``pruner`` at the steps period, 2·period, … up to and with ``until``; nothing at any other step, nor at 0.

    >>> masks, evidence = {"w": np.array([True, True])}, {"weight": {"w": np.array([1.0, 2.0])}}
    >>> rarely = every(10, prune(criteria.magnitude, to=lambda step: 0.5))
    >>> [rarely.update(masks, evidence, step)["w"].tolist() for step in (5, 10)]
    [[True, True], [False, True]]
    """
    if period < 1:
        raise ValueError(f"period {period} is not a positive number of steps")

    def due(step: int) -> bool:
        return step > 0 and step % period == 0 and (until is None or step <= until)

    return Pruner(
        pruner.needs,
        lambda masks, evidence, step: pruner.update(masks, evidence, step) if due(step) else masks,
        lambda masks, step: pruner.grows(masks, step) if due(step) else {},
    )


def within(layers: Iterable[str], pruner: Pruner) -> Pruner:
    """``pruner`` on these layers alone; the others keep their masks.

    >>> masks = {name: np.array([True, True]) for name in ("conv", "head")}
    >>> evidence = {"weight": {name: np.array([1.0, 2.0]) for name in masks}}
    >>> within(["conv"], prune(criteria.magnitude, to=lambda step: 0.5)).update(masks, evidence, 1)
    {'conv': array([False,  True]), 'head': array([ True,  True])}
    """
    names = frozenset(layers)

    def here(masks: Masks) -> Masks:
        return {name: mask for name, mask in masks.items() if name in names}

    return Pruner(
        pruner.needs,
        lambda masks, evidence, step: {**masks, **pruner.update(here(masks), evidence, step)},
        lambda masks, step: pruner.grows(here(masks), step),
    )


def score(criterion: Criterion, evidence: Evidence, masks: Masks) -> Scores:
    """Scores of the masked layers: the criterion on each layer's evidence. KeyError names evidence that is missing.

    >>> score(criteria.magnitude, {"weight": {"w": np.array([-2.0, 1.0])}}, {"w": np.array([True, True])})
    {'w': array([2., 1.])}
    """
    kinds = criteria.needs(criterion)
    for kind in kinds:
        if missing := [name for name in masks if name not in evidence.get(kind, {})]:
            raise KeyError(f"no evidence {kind!r} for layer {missing[0]}")
    return {name: criterion(*(evidence[kind][name] for kind in kinds)) for name in masks}


def _swaps(mask: np.ndarray, fraction: float) -> int:
    alive = int(np.count_nonzero(mask))
    # not kept_count: a fraction may round to no swap at all
    return min(int(fraction * alive * (1 + 1e-9)), mask.size - alive)


def _best(scores: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    return top_k(np.where(among, scores, -np.inf), count)
