"""Laws of the split: nothing is shared, nothing is lost, no test example is ever trained on."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_data import made_up, numbered

from fedprune.data import DataError, Federation, Partition, dirichlet, federate, iid, shards
from fedprune.data.draw import deal, hold_out_last, largest_remainder, stratified

ARTIFICIAL = {"iid": iid, "dirichlet": partial(dirichlet, alpha=0.3), "shards": partial(shards, per_device=2)}


def parts(federation: Federation) -> list[np.ndarray]:
    mine = [(one.train_indices, one.development_indices, one.test_indices) for one in federation.devices]
    return [federation.public_indices, federation.unused_indices, *(part for three in mine for part in three)]


def check_whole(federation: Federation) -> None:
    """Disjoint parts whose union is everything."""
    assert np.array_equal(np.sort(np.concatenate(parts(federation))), np.arange(len(federation.pool.labels)))


def test_a_device_alone_holds_its_parts_and_nothing_else() -> None:
    labels = np.random.default_rng(3).integers(0, 4, 90)
    dataset = made_up(numbered(labels), numbered(labels[:30], first=90), 4)
    shared = federate(dataset, iid, 3, 0).devices[1]
    alone = shared.alone()
    assert alone.sizes() == shared.sizes()
    assert (len(alone.pool.train), alone.pool.test) == (sum(shared.sizes().values()), None)
    for one, other in zip(alone.indices(), shared.indices(), strict=True):
        mine, theirs = getattr(alone, one), getattr(shared, other)
        assert np.array_equal(mine.inputs, theirs.inputs)
        assert np.array_equal(mine.labels, theirs.labels)


def union(indices: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(indices))


@pytest.mark.parametrize("partition", ARTIFICIAL.values(), ids=ARTIFICIAL)
@pytest.mark.parametrize("official", [True, False])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), devices=st.integers(1, 8), classes=st.integers(1, 6), extra=st.integers(0, 99))
def test_artificial_devices(
    partition: Partition, official: bool, seed: int, devices: int, classes: int, extra: int
) -> None:
    rng = np.random.default_rng(seed)
    train = numbered(rng.integers(0, classes, devices * 15 + extra))
    test = numbered(rng.integers(0, classes, 57), first=len(train)) if official else None
    dataset = made_up(train, test, classes)
    federation = federate(dataset, partition, devices, seed)

    check_whole(federation)
    assert len(federation.unused_indices) == 0
    assert len(federation.public_indices) == int(0.05 * len(train) + 0.5)
    assert len(federation.devices) == devices
    for device in federation.devices:
        assert len(device.train_indices) >= 1
        trained = len(device.train_indices) + len(device.development_indices)
        assert len(device.development_indices) == int(0.1 * trained + 0.5)
        # The input of a made-up example is its index: parts hold what they say.
        assert np.array_equal(device.train.inputs[:, 0], device.train_indices)
        assert np.array_equal(device.test.inputs[:, 0], device.test_indices)
    tests = union([device.test_indices for device in federation.devices])
    if official:
        assert np.array_equal(tests, np.arange(len(train), len(train) + 57))
    else:
        owned = [
            len(one.train_indices) + len(one.development_indices) + len(one.test_indices) for one in federation.devices
        ]
        assert [len(one.test_indices) for one in federation.devices] == [int(0.2 * count + 0.5) for count in owned]
    again = parts(federate(dataset, partition, devices, seed))
    assert all(np.array_equal(one, other) for one, other in zip(parts(federation), again, strict=True))


@pytest.mark.parametrize("devices", [1, 2, 4, 5])
def test_people_may_share_devices(devices: int) -> None:
    people = np.repeat(np.arange(5), 20)
    dataset = made_up(numbered(np.tile([0, 1], 50), people), None, 2)
    apart, shared = federate(dataset), federate(dataset, devices=devices)
    assert len(shared.devices) == devices
    members = [sorted(set(people[one.test_indices])) for one in shared.devices]
    assert sorted(person for owners in members for person in owners) == [
        0,
        1,
        2,
        3,
        4,
    ]  # nobody's examples lie on two devices
    assert all(owners == list(range(owners[0], owners[-1] + 1)) for owners in members)
    assert max(map(len, members)) - min(map(len, members)) <= 1
    for one, owners in zip(shared.devices, members, strict=True):
        mine = np.concatenate([one.train_indices, one.development_indices])
        assert set(people[mine]) == set(owners)
        assert set(one.test_indices) == {index for person in owners for index in apart.devices[person].test_indices}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), overlap=st.integers(0, 2), official=st.booleans())
def test_people(seed: int, overlap: int, official: bool) -> None:
    rng = np.random.default_rng(seed)
    # Recordings in stored order: runs of one person and label, some labels in several runs.
    runs = [(person, label) for person in range(6) for label in rng.integers(0, 3, 5)]
    rows = np.array([run for run in runs for _ in range(rng.integers(8, 15))])
    people, labels = rows.T
    cut = int(np.flatnonzero(people == 4)[0])
    train, test = numbered(labels[:cut], people[:cut]), numbered(labels[cut:], people[cut:], first=cut)
    federation = federate(made_up(train, test, 3, overlap), seed=seed, official_test=official)

    check_whole(federation)
    assert len(federation.devices) == 6
    for person, device in enumerate(federation.devices):
        mine = union([device.train_indices, device.development_indices, device.test_indices])
        assert set(people[mine]) == {person}
        if official:
            assert (len(device.test_indices) > 0) == (person >= 4) == (len(device.train_indices) == 0)
            continue
        assert len(device.train_indices) >= 1
        for label in set(labels[people == person]):
            stored = np.flatnonzero((people == person) & (labels == label))
            held = device.test_indices[labels[device.test_indices] == label]
            assert np.array_equal(held, stored[len(stored) - int(0.2 * len(stored) + 0.5) :])
    # No example that is trained on, anywhere, shares samples with a test example of its recording.
    tested = union([device.test_indices for device in federation.devices])
    trained = union([part for one in federation.devices for part in (one.train_indices, one.development_indices)])
    trained = union([trained, federation.public_indices])
    for shift in range(1, overlap + 1):
        if official:
            break
        near = np.intersect1d(trained + shift, tested)
        assert not ((people[near] == people[near - shift]) & (labels[near] == labels[near - shift])).any()
    if overlap == 0 or official:
        assert len(federation.unused_indices) == 0


def test_a_person_in_both_splits_keeps_that_division() -> None:
    people, labels = np.repeat([0, 1], 10), np.tile([0, 1], 10)
    dataset = made_up(numbered(labels, people), numbered(labels, people, first=20), 2)
    federation = federate(dataset, public=0.0)
    assert np.array_equal(federation.devices[1].test_indices, np.arange(30, 40))
    assert len(federation.devices[1].train_indices) == 9


def test_a_part_of_both_splits_is_read_in_order() -> None:
    federation = federate(made_up(numbered(np.zeros(30)), numbered(np.zeros(9), first=30), 1), iid, 2)
    mixed = np.array([31, 2, 38, 0])
    assert federation.pool.take(mixed).inputs[:, 0].tolist() == mixed.tolist()


def test_examples_limits_training_only_and_in_proportion() -> None:
    train, test = numbered(np.repeat([0, 1], [600, 200])), numbered(np.repeat([0, 1], 50), first=800)
    federation = federate(made_up(train, test, 2), iid, 4, 0, examples=200)
    used = np.setdiff1d(np.arange(800), federation.unused_indices)
    assert np.bincount(train.labels[used]).tolist() == [150, 50]
    assert np.bincount(federation.public.labels).tolist() == [8, 2]  # 10, of 7.5 and 2.5: ties go to the first
    assert sum(len(device.test_indices) for device in federation.devices) == 100
    check_whole(federation)


def test_tests_follow_the_training_labels() -> None:
    labels = np.tile(np.arange(10), 500)
    dataset = made_up(numbered(labels), numbered(np.tile(np.arange(10), 100), first=5000), 10)
    for device in federate(dataset, partial(shards, per_device=2), 10, 3, development=0.0).devices:
        assert set(device.test.labels) <= set(device.train.labels)
        assert abs(len(device.test_indices) - 100) <= 1
    for device in federate(dataset, partial(dirichlet, alpha=0.3), 10, 3, development=0.0).devices:
        expected = np.bincount(device.train.labels, minlength=10) / 475 * 100
        assert (np.abs(np.bincount(device.test.labels, minlength=10) - expected) < 1).all()
        assert abs(len(device.test_indices) - expected.sum()) < 2
    sizes = [len(device.test_indices) for device in federate(dataset, iid, 100, 3).devices]
    assert max(sizes) - min(sizes) <= 2


def test_errors_name_the_culprit() -> None:
    labels = np.tile([0, 1], 20)
    plain = made_up(numbered(labels), None, 2)
    cases = [
        ("public 1.0 is outside", lambda: federate(plain, iid, 2, public=1.0)),
        ("made-up does not say whose", lambda: federate(plain)),
        ("how many devices", lambda: federate(plain, iid)),
        ("no official test split", lambda: federate(plain, iid, 2, official_test=True)),
        ("examples 0", lambda: federate(plain, iid, 2, examples=0)),
        ("too few for 50 devices", lambda: federate(plain, iid, 50)),
        ("exactly once", lambda: federate(plain, lambda labels, devices, seed: [np.arange(3)] * devices, 2)),
        (
            "device 1 of made-up has nothing",
            lambda: federate(plain, lambda n, k, s: [np.arange(len(n)), np.arange(0)], 2),
        ),
        ("only people can be devices", lambda: federate(made_up(numbered(labels), None, 2, overlap=1), iid, 2)),
        (
            "has 2 people: 3 devices are too many",
            lambda: federate(made_up(numbered(labels, labels), None, 2), devices=3),
        ),
    ]
    for message, call in cases:
        with pytest.raises(DataError, match=message):
            call()


def test_largest_remainder_by_hand() -> None:
    assert largest_remainder(np.array([5, 3, 2]), 4).tolist() == [2, 1, 1]  # 2.0, 1.2, 0.8
    assert largest_remainder(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_stratified_keeps_shares(groups: list[int], fraction: float, seed: int) -> None:
    labels = np.array(groups)
    chosen = stratified(labels, int(fraction * len(labels)), np.random.default_rng(seed))
    assert len(np.unique(chosen)) == len(chosen) == int(fraction * len(labels))
    exact = np.bincount(labels) * len(chosen) / len(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=len(exact)) - exact) < 1).all()


def test_deal_by_hand() -> None:
    labels = np.repeat([0, 1, 2], 4)
    hands = deal(labels, np.array([[3, 0, 0], [1, 2, 0]]), np.random.default_rng(0))
    # Nobody trains on label 2: it goes by size, 3 to 3.
    assert [np.bincount(labels[hand], minlength=3).tolist() for hand in hands] == [[3, 0, 2], [1, 4, 2]]


def test_hold_out_last_by_hand() -> None:
    stored, labels = np.arange(10, 20), np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0])
    cut = hold_out_last(stored, labels, 0.25, overlap=1)
    assert cut.held.tolist() == [16, 18, 19]
    assert cut.dropped.tolist() == [15, 17]
    assert cut.kept.tolist() == [10, 11, 12, 13, 14]
    # Held out from a pause on: the window before the pause shares nothing.
    assert hold_out_last(stored, labels, 0.5, overlap=1).dropped.tolist() == [14]
