"""Drawing and dealing examples in proportion: exact counts, no luck in who gets how many, only in which."""

from typing import NamedTuple

import numpy as np

from fedprune.data.examples import IntArray


class HeldOut(NamedTuple):
    """Positions of a split in stored order."""

    kept: IntArray
    held: IntArray
    dropped: IntArray


def share(fraction: float, count: int) -> int:
    """Returns fraction * count, rounded half up."""
    return int(fraction * count + 0.5)


def largest_remainder(weights: IntArray, total: int) -> IntArray:
    """Returns integers (m,) in proportion to `weights` (m,), summing to `total`; each is exact to less than one.

    So none exceeds its weight where total <= weights.sum(). Ties go to the first.
    """
    whole, rest = np.divmod(weights * total, max(1, int(weights.sum())))
    extra = np.argsort(-rest, kind="stable")[: total - int(whole.sum())]
    counts: IntArray = whole.astype(np.int64)
    counts[extra] += 1
    return counts


def stratified(groups: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Returns `count` random positions in `groups` (n,), sorted, each group's share of them as its share of all."""
    count = min(count, len(groups))
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(groups))
    order = order[np.argsort(inverse[order], kind="stable")]  # by group, random within
    wanted = largest_remainder(sizes, count)
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(wanted, sizes)])


def deal(labels: IntArray, held: IntArray, rng: np.random.Generator) -> list[IntArray]:
    """Returns for each device its positions in `labels` (n,), every one dealt exactly once.

    `held` (devices, classes) counts a device's training examples of a class; its part of a class is in proportion, to
    less than one. What rounding takes from a device in one class it gets back in a later one, so totals are in
    proportion too. A class that no device trains on goes by the devices' sizes.
    """
    devices, classes = held.shape
    owed = np.zeros(devices)
    sizes = np.maximum(1, held.sum(axis=1))  # a device without training data may still be dealt a test
    hands: list[list[IntArray]] = [[] for _ in range(devices)]
    for label in range(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        weights = held[:, label] if held[:, label].any() else sizes
        whole, rest = np.divmod(weights * len(members), int(weights.sum()))
        fractions = rest / int(weights.sum())
        # A device whose share is whole takes no extra, however much it is owed: that may be a class it does not hold.
        claim = np.where(rest > 0, fractions + owed, -np.inf)
        counts = whole.astype(np.int64)
        counts[np.argsort(-claim, kind="stable")[: len(members) - int(whole.sum())]] += 1
        owed += whole + fractions - counts
        for hand, part in zip(hands, np.split(members, np.cumsum(counts)[:-1]), strict=True):
            hand.append(part)
    return [np.sort(np.concatenate(hand)) for hand in hands]


def hold_out_last(stored: IntArray, labels: IntArray, fraction: float, overlap: int) -> HeldOut:
    """Returns a person's examples split in time: of each label the last `fraction` is held out.

    `stored` (n,) are the examples' places in the data set, ascending, `labels` (n,) theirs; the result holds places
    too. Where an example shares raw samples with the `overlap` following ones of its label, those that share with a
    held-out one are dropped: neither trained on nor tested.
    """
    kept, held, dropped = [], [], []
    for label in np.unique(labels):
        mine = stored[labels == label]
        first = len(mine) - share(fraction, len(mine))
        start = mine[first] if first < len(mine) else np.iinfo(np.int64).max
        touches = mine[:first] >= start - overlap
        kept.append(mine[:first][~touches])
        held.append(mine[first:])
        dropped.append(mine[:first][touches])
    return HeldOut(*(np.sort(np.concatenate(part)) for part in (kept, held, dropped)))
