"""Laws of the partitioners, and the same statistics as flwr-datasets'."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.data import DataError, Partition, dirichlet, iid, natural, shards

LABELS = np.repeat(np.arange(10), 200)
PARTITIONS = {
    "iid": iid,
    "dirichlet": partial(dirichlet, alpha=0.5),
    "dirichlet, few classes": partial(dirichlet, alpha=0.01),
    "shards": shards,
}


def skew(parts: list[np.ndarray], labels: np.ndarray, classes: int = 10) -> float:
    """Mean total variation between a device's labels and all labels, in [0, 1)."""
    overall = np.bincount(labels, minlength=classes) / len(labels)
    mine = [np.bincount(labels[part], minlength=classes) / len(part) for part in parts]
    return float(np.mean([np.abs(one - overall).sum() / 2 for one in mine]))


@pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**40), devices=st.integers(1, 12))
def test_every_example_goes_to_one_device(partition: Partition, data: st.DataObject, seed: int, devices: int) -> None:
    size = data.draw(st.integers(devices * 10, devices * 10 + 150))
    labels = np.random.default_rng(seed).integers(0, data.draw(st.integers(1, 7)), size)
    parts = partition(labels, devices, seed)
    assert len(parts) == devices
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(size))
    assert min(len(part) for part in parts) >= (10 if "dirichlet" in str(partition) else 1)
    again = partition(labels, devices, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("partition", PARTITIONS.values(), ids=PARTITIONS)
def test_another_seed_deals_anew(partition: Partition) -> None:
    one, other = partition(LABELS, 5, 1), partition(LABELS, 5, 2)
    assert not all(np.array_equal(mine, its) for mine, its in zip(one, other, strict=True))


def test_iid_sizes_differ_by_at_most_one() -> None:
    sizes = {len(part) for part in iid(LABELS, 7, 0)}
    assert max(sizes) - min(sizes) <= 1


def test_label_skew_falls_as_alpha_grows() -> None:
    skews = [
        np.mean([skew(dirichlet(LABELS, 10, seed, alpha=alpha), LABELS) for seed in range(5)])
        for alpha in (0.05, 0.3, 1.0, 10.0, 1000.0)
    ]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.7
    assert skews[-1] < 0.05


def test_dirichlet_tops_up_where_no_draw_would_do() -> None:
    parts = dirichlet(LABELS, 150, 0, alpha=0.01, min_examples=10)
    assert min(len(part) for part in parts) == 10
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))


def test_shards_hold_few_labels() -> None:
    parts = shards(LABELS, 10, 0, per_device=2)  # 20 shards of 100: each of one label
    assert all(len(part) == 200 and len(np.unique(LABELS[part])) <= 2 for part in parts)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_natural_is_one_device_a_person(people: list[int]) -> None:
    ids = np.array(people)
    parts = natural(ids)
    assert [ids[part].tolist() for part in parts] == [[one] * people.count(one) for one in sorted(set(people))]
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(
    ("partition", "names"),
    [
        (partial(dirichlet, alpha=0.0), "alpha 0.0"),
        (partial(dirichlet, alpha=1.0, min_examples=500), "2000 examples are too few for 10 devices"),
        (partial(shards, per_device=0), "per_device 0"),
        (lambda labels, devices, seed: iid(labels, 0, seed), "devices 0"),
    ],
)
def test_errors_name_the_culprit(partition: Partition, names: str) -> None:
    with pytest.raises(DataError, match=names):
        partition(LABELS, 10, 0)


@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
def test_statistics_are_those_of_flwr_datasets() -> None:
    theirs = pytest.importorskip("flwr_datasets.partitioner")
    table = pytest.importorskip("datasets").Dataset.from_dict({"row": np.arange(len(LABELS)), "label": LABELS})

    def rows(partitioner: object) -> list[np.ndarray]:
        partitioner.dataset = table
        return [np.array(partitioner.load_partition(one)["row"]) for one in range(10)]

    assert sorted(map(len, rows(theirs.IidPartitioner(10)))) == sorted(map(len, iid(LABELS, 10, 0)))
    exact = rows(theirs.ShardPartitioner(10, "label", num_shards_per_partition=2, seed=0))
    held = [sorted(np.bincount(LABELS[part], minlength=10)) for part in exact]
    mine = [sorted(np.bincount(LABELS[part], minlength=10)) for part in shards(LABELS, 10, 0)]
    assert {sum(one) for one in held} == {sum(one) for one in mine} == {200}
    assert {max(one) for one in mine} <= {100, 200} >= {max(one) for one in held}

    for alpha in (0.1, 1.0):
        reference = [
            skew(rows(theirs.DirichletPartitioner(10, "label", alpha, 10, seed=seed)), LABELS) for seed in range(6)
        ]
        ours = [skew(dirichlet(LABELS, 10, seed, alpha=alpha), LABELS) for seed in range(6)]
        # Same mean to four standard errors of the difference.
        spread = np.sqrt((np.var(reference) + np.var(ours)) / 5)
        assert abs(np.mean(reference) - np.mean(ours)) < 4 * spread
