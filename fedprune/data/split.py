"""Who holds what: the server's public set, and of each device what it trains on, selects by and is tested on."""

from collections.abc import Sequence

import numpy as np

from fedprune.counter_rng import generator
from fedprune.data.draw import deal, hold_out_last, share, stratified
from fedprune.data.examples import DataError, Dataset, IntArray
from fedprune.data.partition import Partition, natural
from fedprune.data.parts import DeviceData, Federation, Pool


def federate(
    dataset: Dataset,
    partition: Partition | None = None,
    devices: int | None = None,
    seed: int = 0,
    *,
    public: float = 0.05,
    development: float = 0.1,
    test: float = 0.2,
    examples: int | None = None,
    official_test: bool = False,
) -> Federation:
    """Returns `dataset` spread over a server and devices; all parts are disjoint and a pure function of the arguments.

    - `partition` makes `devices` artificial devices of the training data; None makes each person one, ordered by id, or
      `devices` of all people, neighbours sharing one.
    - Test: artificial devices share out the official test split, each class in proportion to their training data, so
      that their parts together are exactly that split; where there is none each sets aside a stratified `test`
      fraction. A person, of the training or the test split, holds out the last `test` fraction of each label in stored
      order, less what overlaps (see `draw.hold_out_last`); one found in both splits keeps that division.
      With `official_test` every person does: those of the test split evaluate and never train, the others only train.
    - `examples` limits the training data, stratified by label (and person), before anything else is drawn from it.
    - The server's public set is a fraction `public` of the training data, stratified by label; no device holds it.
    - A random fraction `development` of each device's remaining training examples is set aside to select by. Where
      examples overlap it may share samples with what is trained on, as any random draw would; a test part never does.

    Raises `DataError` on a fraction outside [0, 1), a data set without what is asked of it, or a device left with
    nothing to train on.
    """
    for key, fraction in (("public", public), ("development", development), ("test", test)):
        if not 0 <= fraction < 1:
            raise DataError(f"{key} {fraction} is outside [0, 1)")
    if official_test and dataset.test is None:
        raise DataError(f"{dataset.name} has no official test split: leave official_test out")
    if examples is not None and examples < 1:
        raise DataError(f"examples {examples} must be at least 1")

    pool = Pool(dataset.train, dataset.test)
    labels = pool.strata
    if partition is None:
        groups, owned, tests = _people(dataset, devices, test, official_test)
        trainable = _limited(np.sort(np.concatenate(owned)), groups, examples, seed)
        public_indices, private = _public(trainable, labels, public, seed)
        owned = [mine[np.isin(mine, private, assume_unique=True)] for mine in owned]
    else:
        trainable = _limited(np.arange(len(dataset.train)), labels, examples, seed)
        public_indices, private = _public(trainable, labels, public, seed)
        owned = [private[part] for part in _parts(partition, labels[private], devices, seed)]
        owned, tests = _artificial_tests(dataset, labels, owned, test, seed)
    for index, (mine, held) in enumerate(zip(owned, tests, strict=True)):
        evaluates_only = partition is None and official_test and len(held) > 0
        if len(mine) == 0 and not evaluates_only:
            raise DataError(f"device {index} of {dataset.name} has nothing to train on: fewer devices or more examples")

    members = []
    for index, (mine, held) in enumerate(zip(owned, tests, strict=True)):
        order = generator(seed, "federate", "development", str(index)).permutation(mine)
        count = min(share(development, len(mine)), max(0, len(mine) - 1))
        members.append(DeviceData(pool, np.sort(order[count:]), np.sort(order[:count]), np.sort(held)))
    used = np.concatenate([public_indices, *owned, *tests])
    return Federation(pool, public_indices, tuple(members), np.setdiff1d(np.arange(len(labels)), used))


def _limited(trainable: IntArray, groups: IntArray, examples: int | None, seed: int) -> IntArray:
    if examples is None:
        return trainable
    return trainable[stratified(groups[trainable], examples, generator(seed, "federate", "examples"))]


def _public(trainable: IntArray, labels: IntArray, fraction: float, seed: int) -> tuple[IntArray, IntArray]:
    """(the server's public set, what is left to the devices)."""
    rng = generator(seed, "federate", "public")
    chosen = stratified(labels[trainable], share(fraction, len(trainable)), rng)
    return trainable[chosen], np.delete(trainable, chosen)


def _people(
    dataset: Dataset, devices: int | None, test: float, official_test: bool
) -> tuple[IntArray, list[IntArray], list[IntArray]]:
    """(person-and-label groups over the pool, each person's trainable and test indices)."""
    splits = [dataset.train] if dataset.test is None else [dataset.train, dataset.test]
    known = [split.people for split in splits if split.people is not None]
    if len(known) < len(splits):
        raise DataError(
            f"{dataset.name} does not say whose its examples are: give a partition (iid, dirichlet or shards)"
        )
    people, labels = np.concatenate(known), np.concatenate([split.strata for split in splits])
    parts = natural(people)
    if devices is not None and devices > len(parts):
        raise DataError(f"{dataset.name} has {len(parts)} people: {devices} devices are too many")
    owned, tests = [], []
    for mine in parts:
        later = mine >= len(dataset.train)
        if official_test or (later.any() and not later.all()):
            owned.append(mine[~later])
            tests.append(mine[later])
        else:
            cut = hold_out_last(mine, labels[mine], test, dataset.overlap)
            owned.append(cut.kept)
            tests.append(cut.held)
    if devices is not None:
        owned, tests = _households(owned, devices), _households(tests, devices)
    return people * max(2, len(dataset.classes)) + labels, owned, tests


def _households(people: list[IntArray], devices: int) -> list[IntArray]:
    """The examples of neighbouring people together, in as many groups as there are devices."""
    return [
        np.concatenate(people[group[0] : group[-1] + 1]) for group in np.array_split(np.arange(len(people)), devices)
    ]


def _parts(partition: Partition, labels: IntArray, devices: int | None, seed: int) -> list[IntArray]:
    if devices is None:
        raise DataError("a partition needs to know how many devices there are")
    parts = partition(labels, devices, seed)
    if len(parts) != devices or not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels))):
        raise DataError(f"the partition must give {devices} devices every example exactly once")
    return parts


def _artificial_tests(
    dataset: Dataset, labels: IntArray, owned: Sequence[IntArray], test: float, seed: int
) -> tuple[list[IntArray], list[IntArray]]:
    """(each device's trainable indices less its test part, each device's test indices)."""
    rng = generator(seed, "federate", "test")
    if dataset.test is not None:
        held = np.stack([np.bincount(labels[mine], minlength=max(2, len(dataset.classes))) for mine in owned])
        return list(owned), [len(dataset.train) + part for part in deal(dataset.test.strata, held, rng)]
    if dataset.overlap:
        raise DataError(
            f"{dataset.name} has overlapping examples and no official test split: only people can be devices"
        )
    chosen = [stratified(labels[mine], min(share(test, len(mine)), max(0, len(mine) - 1)), rng) for mine in owned]
    return (
        [np.delete(mine, rows) for mine, rows in zip(owned, chosen, strict=True)],
        [mine[rows] for mine, rows in zip(owned, chosen, strict=True)],
    )
