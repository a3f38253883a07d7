"""Joining what devices send: weights over whoever owns them, statistics and top-k lists exactly.

Sums are taken in float64 and in the order given; callers order replies by device, so that a result does not depend on
who answered first.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedprune.types import Masks, Moments, Params, Scores, Tensor, TopK


class Share(NamedTuple):
    """What one device brings to an average."""

    params: Params
    masks: Masks
    """Positions of ``params`` that the device owns; a parameter without a mask is owned whole."""
    weight: float
    """Its weight before normalisation, usually its number of training examples; not negative."""


def coverage_mean(server: Params, shares: Sequence[Share]) -> Params:
    """Every position averaged over the devices that own it; one that nobody owns keeps the server's value.

    With every device owning everything this is FedAvg: Σ_k n_k θ_k / Σ_k n_k. Integer and boolean buffers are counters
    and flags, not means: they keep their type and take the largest value. Raises ValueError where a share's names or
    shapes are not the server's, or a weight is negative or not finite.

    >>> small = Share({"w": np.array([1.0, 0.0, 0.0])}, {"w": np.array([True, False, False])}, weight=1)
    >>> large = Share({"w": np.array([4.0, 2.0, 0.0])}, {"w": np.array([True, True, False])}, weight=2)
    >>> coverage_mean({"w": np.array([0.0, 0.0, 5.0])}, [small, large])
    {'w': array([3., 2., 5.])}
    """
    for share in shares:
        _check(server, share)
    shares = [share for share in shares if share.weight > 0]
    return {name: _mean(name, value, shares) for name, value in server.items()}


def coverage_trimmed(server: Params, shares: Sequence[Share], trim: float) -> Params:
    """Every position averaged over its owners without the ⌊trim · n⌋ least and as many greatest of its n values.

    Devices are ranked with one vote each and what is left is weighted as in ``coverage_mean``, which is the result
    where ``trim`` is 0. As long as no more owners lie than are cut off at an end, a position stays within the values
    of the others, whatever weights they claim (Yin et al., 2018). Counters and flags take the largest value left.
    Raises ValueError as ``coverage_mean``, and where ``trim`` is outside [0, 0.5).

    >>> shares = [Share({"w": np.array([value])}, {}, weight=1) for value in (1.0, 2.0, 3.0, 1e9)]
    >>> coverage_trimmed({"w": np.zeros(1)}, shares, trim=0.25)
    {'w': array([2.5])}
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim is {trim}, expected a fraction in [0, 0.5)")
    return _between(server, shares, lambda owners: np.floor(trim * owners).astype(np.int64))


def coverage_median(server: Params, shares: Sequence[Share]) -> Params:
    """Every position's median over its owners, the mean of the two middle values where their number is even.

    Every owner has one vote: a weight that a device claims for itself moves nothing. Less than half of the owners can
    not move it out of the others' range. Counters and flags take the upper median. Raises as ``coverage_mean``.

    >>> shares = [Share({"w": np.array([value])}, {}, weight) for value, weight in ((1.0, 9), (2.0, 1), (1e9, 99))]
    >>> coverage_median({"w": np.zeros(1)}, shares)
    {'w': array([2.])}
    """
    equal = [
        share._replace(weight=float(share.weight > 0)) if math.isfinite(share.weight) else share for share in shares
    ]
    return _between(server, equal, lambda owners: np.maximum(owners - 1, 0) // 2)


def _between(server: Params, shares: Sequence[Share], cut: Callable[[Tensor], Tensor]) -> Params:
    """The mean over those owners of each position that are not among the ``cut(owners)`` at either end."""
    for share in shares:
        _check(server, share)
    shares = [share for share in shares if share.weight > 0]
    if not shares:
        return dict(server)
    masks: list[dict[str, Tensor]] = [{} for _ in shares]
    counters: dict[str, Tensor] = {}
    for name, value in server.items():
        given = np.stack([share.params[name] for share in shares])  # (devices, ...)
        if not np.issubdtype(value.dtype, np.floating):
            last = len(shares) - 1 - int(cut(np.asarray(len(shares))))
            counters[name] = np.asarray(np.sort(given, axis=0)[last])
            continue
        owned = np.stack([np.broadcast_to(share.masks.get(name, np.True_), value.shape) for share in shares])
        owners = np.count_nonzero(owned, axis=0)
        # those that do not own a position come last; a stable order, so that ties fall by device
        order = np.argsort(np.where(owned, given, np.inf), axis=0, kind="stable")
        rank = np.argsort(order, axis=0, kind="stable")
        low = cut(owners)
        kept = owned & (rank >= low) & (rank < owners - low)
        for mask, each in zip(masks, kept, strict=True):
            mask[name] = np.asarray(each)
    narrowed = [
        share._replace(params={**share.params, **counters}, masks=mask)
        for share, mask in zip(shares, masks, strict=True)
    ]
    return coverage_mean(server, narrowed)


def clipped(server: Params, share: Share, norm: float, names: Collection[str]) -> Share:
    """The share with its update of ``names``, where it owns them, scaled to a Euclidean norm of ``norm`` at most.

    θ_k ← θ + (θ_k − θ) · min(1, norm / ‖θ_k − θ‖); one that is short enough comes back as it is.

    >>> far = Share({"w": np.array([3.0, 4.0])}, {}, weight=1)
    >>> clipped({"w": np.zeros(2)}, far, norm=1.0, names=["w"]).params
    {'w': array([0.6, 0.8])}
    """
    updates = {
        name: np.where(share.masks.get(name, True), share.params[name].astype(np.float64) - server[name], 0.0)
        for name in names
    }
    length = math.sqrt(sum(float(np.square(update).sum()) for update in updates.values()))
    if length <= norm:
        return share
    shorter = {n: (server[n] + update * (norm / length)).astype(server[n].dtype) for n, update in updates.items()}
    return share._replace(params={**share.params, **{name: np.asarray(value) for name, value in shorter.items()}})


def _mean(name: str, value: Tensor, shares: Sequence[Share]) -> Tensor:
    if not shares:
        return value
    if not np.issubdtype(value.dtype, np.floating):
        # asarray: a reduction of scalars is no array
        return np.asarray(np.maximum.reduce([share.params[name] for share in shares]), dtype=value.dtype)
    if not any(name in share.masks for share in shares):
        total = sum(share.weight for share in shares)
        summed = sum(share.params[name].astype(np.float64) * share.weight for share in shares)
        return np.asarray(summed / total, dtype=value.dtype)
    summed, owned = np.zeros(value.shape), np.zeros(value.shape)
    for share in shares:
        mask = share.masks.get(name, True)
        summed += np.where(mask, share.params[name].astype(np.float64) * share.weight, 0.0)
        owned += np.where(mask, share.weight, 0.0)
    averaged: Tensor = np.where(owned > 0, summed / np.where(owned > 0, owned, 1.0), value)
    return averaged.astype(value.dtype)


def _check(server: Params, share: Share) -> None:
    if not (np.isfinite(share.weight) and share.weight >= 0):
        raise ValueError(f"a share's weight is {share.weight}")
    if share.params.keys() != server.keys():
        raise ValueError(f"a share's names differ from the server's: {sorted(share.params.keys() ^ server.keys())[:3]}")
    for name, value in share.params.items():
        if value.shape != server[name].shape:
            raise ValueError(f"{name}: a share has shape {value.shape}, the server {server[name].shape}")
        if name in share.masks and share.masks[name].shape != value.shape:
            raise ValueError(f"{name}: a share's mask has shape {share.masks[name].shape}, its value {value.shape}")


def mean_scores(proposals: Sequence[tuple[Scores, Masks, float]]) -> dict[str, Tensor]:
    """Σ w_k s_ki / Σ w_k over the devices k that own position i; −∞ where none does, so that it is never preferred.

    Each proposal is (scores, positions that the device owns, weight). With devices that own the same, this is the plain
    weighted mean.

    >>> whole, part = {"w": np.array([1.0, 5.0])}, {"w": np.array([3.0, 0.0])}
    >>> mean_scores([(whole, {}, 1), (part, {"w": np.array([True, False])}, 1)])
    {'w': array([2., 5.])}
    """
    found: dict[str, Tensor] = {}
    for name in proposals[0][0] if proposals else {}:
        summed, owned = np.zeros(()), np.zeros(())
        for values, owns, weight in proposals:
            here = owns.get(name, np.True_)
            summed = summed + np.where(here, values[name].astype(np.float64) * weight, 0.0)
            owned = owned + np.where(here, weight, 0.0)
        found[name] = np.where(owned > 0, summed / np.where(owned > 0, owned, 1.0), -np.inf)
    return found


def votes(proposals: Sequence[tuple[Masks, Masks, float]]) -> dict[str, Tensor]:
    """The weighted share, in [0, 1], of the position's owners whose mask keeps it; −∞ where it has no owner.

    Each proposal is (proposed masks, positions that the device owns, weight).

    >>> yes, no = {"w": np.array([True])}, {"w": np.array([False])}
    >>> votes([(yes, {}, 3), (no, {}, 1)])
    {'w': array([0.75])}
    """
    return mean_scores(proposals)


def mean_of_variances(parts: Sequence[Moments]) -> Moments:
    """μ = Σ w_k μ_k, σ² = Σ w_k σ²_k, w_k = n_k / Σ n: the paper's BN aggregation (FedTiny, eq. 4–5).

    >>> mean_of_variances([Moments(np.array([mean]), np.array([1.0]), 10) for mean in (0.0, 2.0)])
    Moments(mean=array([1.]), variance=array([1.]), examples=20)
    """
    weights = _weights(parts)
    mean = sum(w * part.mean.astype(np.float64) for w, part in zip(weights, parts, strict=True))
    variance = sum(w * part.variance.astype(np.float64) for w, part in zip(weights, parts, strict=True))
    return Moments(np.asarray(mean), np.asarray(variance), sum(part.examples for part in parts))


def pooled(parts: Sequence[Moments]) -> Moments:
    """The exact moments of the union: σ² = Σ w_k (σ²_k + (μ_k − μ)²), the between-device part included.

    >>> pooled([Moments(np.array([mean]), np.array([1.0]), 10) for mean in (0.0, 2.0)])
    Moments(mean=array([1.]), variance=array([2.]), examples=20)
    """
    within = mean_of_variances(parts)
    between = sum(
        w * (part.mean.astype(np.float64) - within.mean) ** 2 for w, part in zip(_weights(parts), parts, strict=True)
    )
    return Moments(within.mean, within.variance + between, within.examples)


def product_of_gaussians(parts: Sequence[tuple[Tensor, Tensor, float]]) -> tuple[Tensor, Tensor]:
    """(μ, log σ²) of Π_k N(μ_k, σ²_k)^(w_k), w_k = n_k / Σ n: precisions are averaged, means weighted by them.

    Each part is (means, logarithms of variances, examples). One prior has begun them all, so it counts once. Any finite
    logarithm gives finite ones.

    >>> mean, log = product_of_gaussians([(np.array([0.0]), np.log([1.0]), 1), (np.array([4.0]), np.log([1 / 3]), 1)])
    >>> mean.round(6).tolist(), np.exp(log).round(6).tolist()
    ([3.0], [0.5])
    """
    total = sum(examples for _, _, examples in parts)
    logs = np.stack([np.log(examples / total) - log.astype(np.float64) for _, log, examples in parts if examples > 0])
    precision = np.logaddexp.reduce(logs)
    means = [mean.astype(np.float64) for mean, _, examples in parts if examples > 0]
    return np.asarray(sum(np.exp(logs - precision) * np.stack(means))), -precision


def _weights(parts: Sequence[Moments]) -> list[float]:
    total = sum(part.examples for part in parts)
    if total <= 0:
        raise ValueError("no examples behind the statistics to merge")
    return [part.examples / total for part in parts]


def merge_top_k(lists: Sequence[tuple[TopK, float]], shape: tuple[int, ...]) -> Tensor:
    """g̃_i = Σ_k λ_k g_ki as a dense float64 tensor of ``shape``, λ_k = w_k / Σ w; a missing index counts 0 (eq. 8).

    >>> one, other = TopK(np.array([0, 3]), np.array([2.0, 4.0])), TopK(np.array([3]), np.array([2.0]))
    >>> merge_top_k([(one, 1), (other, 1)], (2, 2)).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    """
    total = sum(weight for _, weight in lists)
    merged = np.zeros(int(np.prod(shape)))
    for entries, weight in lists:
        # indices within one list are distinct, so fancy assignment loses nothing
        merged[entries.position] += entries.value.astype(np.float64) * (weight / total)
    return merged.reshape(shape)


def merge_counts(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sum of each named count (or sum of losses) over the devices; a missing name counts 0.

    >>> merge_counts([{"right": 3, "examples": 4}, {"examples": 2}])
    {'right': 3, 'examples': 6}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0) for part in parts) for name in names}
