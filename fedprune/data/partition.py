"""Partitioners: labels (or people) -> the indices each device holds, every example exactly once.

Own lines rather than flwr-datasets' partitioners: those need pyarrow and pandas (519 MB), which a simulation must run
without; the tests hold these to theirs.
"""

from collections.abc import Callable

import numpy as np

from fedprune.counter_rng import generator
from fedprune.data.examples import DataError, IntArray

Partition = Callable[[IntArray, int, int], list[IntArray]]
"""(labels (n,), devices, seed) -> one array of indices into labels per device; bind parameters with `partial`."""


def iid(labels: IntArray, devices: int, seed: int) -> list[IntArray]:
    """Returns `devices` random parts whose sizes differ by at most one. Raises `DataError` on fewer examples."""
    _enough(len(labels), devices, 1)
    return np.array_split(generator(seed, "partition", "iid").permutation(len(labels)), devices)


def dirichlet(
    labels: IntArray, devices: int, seed: int, *, alpha: float, min_examples: int = 10, attempts: int = 20
) -> list[IntArray]:
    """Returns parts where each class is spread over the devices by proportions drawn from Dir(alpha, ..., alpha).

    A small `alpha` gives each device few classes, a large one tends to equal shares (Hsu, Qi, Brown 2019, arXiv
    1909.06335; per class as in Yurochkin et al. 2019, arXiv 1905.12022). Where a device gets fewer than
    `min_examples` all is drawn again, up to `attempts` times; after that the largest devices give single random
    examples to the poorest, since with many devices and a small alpha no draw would do.
    Raises `DataError` where alpha is not positive or there are fewer than devices * min_examples examples.
    """
    if not alpha > 0:
        raise DataError(f"dirichlet alpha {alpha} must be greater than 0")
    _enough(len(labels), devices, max(1, min_examples))
    rng = generator(seed, "partition", "dirichlet")
    for _ in range(attempts):
        parts = _dirichlet_draw(labels, devices, alpha, rng)
        if min(len(part) for part in parts) >= min_examples:
            return parts
    return _top_up(parts, max(1, min_examples), rng)


def shards(labels: IntArray, devices: int, seed: int, *, per_device: int = 2) -> list[IntArray]:
    """Returns parts of `per_device` random shards of the examples sorted by label.

    McMahan et al. 2017, arXiv 1602.05629. Shards are of equal size, give or take one. Raises `DataError` where there
    are fewer examples than shards.
    """
    if per_device < 1:
        raise DataError(f"shards per_device {per_device} must be at least 1")
    _enough(len(labels), devices, per_device)
    rng = generator(seed, "partition", "shards")
    shuffled = rng.permutation(len(labels))
    cut = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], devices * per_device)
    hands = rng.permutation(len(cut)).reshape(devices, per_device)
    return [np.concatenate([cut[shard] for shard in hand]) for hand in hands]


def natural(people: IntArray) -> list[IntArray]:
    """Returns one part for each person, in the order of `np.unique(people)`, examples in stored order."""
    _, first = np.unique(people[order := np.argsort(people, kind="stable")], return_index=True)
    return np.split(order, first[1:])


def _enough(examples: int, devices: int, each: int) -> None:
    if devices < 1:
        raise DataError(f"devices {devices} must be at least 1")
    if examples < devices * each:
        raise DataError(f"{examples} examples are too few for {devices} devices with at least {each} each")


def _dirichlet_draw(labels: IntArray, devices: int, alpha: float, rng: np.random.Generator) -> list[IntArray]:
    held: list[list[IntArray]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        bounds = np.cumsum(rng.dirichlet(np.full(devices, alpha)))[:-1] * len(members)
        for mine, part in zip(held, np.split(members, bounds.astype(np.int64)), strict=True):
            mine.append(part)
    return [np.concatenate(parts) for parts in held]


def _top_up(parts: list[IntArray], least: int, rng: np.random.Generator) -> list[IntArray]:
    parts = [rng.permutation(part) for part in parts]
    sizes = np.array([len(part) for part in parts])
    while sizes.min() < least:
        poor, rich = int(sizes.argmin()), int(sizes.argmax())
        parts[poor] = np.append(parts[poor], parts[rich][-1])
        parts[rich] = parts[rich][:-1]
        sizes[poor], sizes[rich] = sizes[poor] + 1, sizes[rich] - 1
    return parts
