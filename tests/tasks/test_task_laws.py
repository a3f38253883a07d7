"""Laws of every task: sums add up in any order and parts, losses are means, metrics know which of two is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprune.tasks import CATALOGUE, CLASSIFICATION, Metric, Task, added, entry, metric_in, total, value_in, zeros
from fedprune.tasks.classes import balanced, entropy
from fedprune.tasks.task import Given

Drawn = tuple[np.ndarray, np.ndarray]


def _classes(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 4)), rng.integers(0, 4, n)


def _numbers(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 2)), rng.normal(size=(n, 2)).astype(np.float32)


def _labels(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 3)), rng.integers(0, 2, (n, 3)).astype(np.float32)


def _tokens(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 5, 7)), rng.integers(0, 7, (n, 5))


def _pixels(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 3, 4, 4)), rng.integers(0, 3, (n, 4, 4))


def _depths(rng: np.random.Generator, n: int) -> Drawn:
    return rng.normal(size=(n, 1, 3, 3)), rng.normal(size=(n, 1, 3, 3)).astype(np.float32)


EXAMPLES: Mapping[str, Callable[[np.random.Generator, int], Drawn]] = {
    "classification": _classes,
    "regression": _numbers,
    "multi_label": _labels,
    "next_token": _tokens,
    "segmentation": _pixels,
    "depth": _depths,
}


def _drawn(name: str, seed: int, n: int) -> tuple[Task, np.ndarray, np.ndarray]:
    outputs, labels = EXAMPLES[name](np.random.default_rng(seed), n)
    return CATALOGUE[name](Given()), outputs.astype(np.float32), labels


def test_every_task_is_drawn() -> None:
    assert EXAMPLES.keys() == CATALOGUE.keys()


@pytest.mark.parametrize("name", CATALOGUE)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 20), max_size=3))
def test_sums_of_parts_in_any_order_are_those_of_all(name: str, seed: int, cuts: list[int]) -> None:
    task, outputs, labels = _drawn(name, seed, 20)
    parts = [(a, b) for a, b in zip(np.split(outputs, sorted(cuts)), np.split(labels, sorted(cuts)), strict=True)]
    merged = zeros(task)
    for part in reversed(parts):
        merged = added(merged, task.sums(*part))
    whole = task.sums(outputs, labels)
    assert whole.keys() == set(task.names)
    assert merged == pytest.approx(dict(whole))
    assert all(0 <= value <= task.most * 20 for value in whole.values())


@pytest.mark.parametrize("name", CATALOGUE)
@given(seed=st.integers(0, 1000))
def test_a_loss_is_the_mean_over_the_examples(name: str, seed: int) -> None:
    task, outputs, labels = _drawn(name, seed, 6)
    given, right = torch.from_numpy(outputs), torch.from_numpy(labels)
    each = [task.loss(given[i : i + 1], right[i : i + 1]).item() for i in range(6)]
    assert task.loss(given, right).item() == pytest.approx(float(np.mean(each)), rel=1e-5)
    assert total(task, given, right) == pytest.approx(float(np.sum(each)), rel=1e-5)


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_is_right_is_best_and_two_equal_forms_agree(name: str) -> None:
    task, outputs, labels = _drawn(name, 0, 12)
    if task.metric.unit == "%":
        classes = outputs.shape[-1 if name == "next_token" else 1]
        hot = np.moveaxis(np.eye(classes)[labels.astype(int)], -1, -1 if name == "next_token" else 1)
        perfect = 2 * (labels if name == "multi_label" else hot) - 1.0
    else:
        perfect = labels
    best = task.value({**task.sums(perfect.astype(np.float32), labels), "seen": 12})
    drawn = task.value({**task.sums(outputs, labels), "seen": 12})
    assert best == (1.0 if task.metric.higher else 0.0)
    assert task.metric.better(best, drawn)
    assert not task.metric.better(drawn, best)
    assert task.agree(outputs, outputs) == (12 if task.agreement.higher else 0)


@pytest.mark.parametrize("name", ["classification", "next_token", "segmentation"])
def test_smoothing_and_weights_change_the_loss_and_nothing_that_judges(name: str) -> None:
    plain, outputs, labels = _drawn(name, 3, 8)
    classes = outputs.shape[-1 if name == "next_token" else 1]
    changed = CATALOGUE[name](Given(0.1, tuple(range(1, classes + 1))))
    given, right = torch.from_numpy(outputs), torch.from_numpy(labels)
    assert changed.loss(given, right).item() != pytest.approx(plain.loss(given, right).item())
    assert total(changed, given, right) == pytest.approx(total(plain, given, right))
    assert changed.sums(outputs, labels) == plain.sums(outputs, labels)


def test_weighted_cross_entropy_worked_by_hand() -> None:
    # two classes that are equally likely cost ln 2 each; weights 3 and 1 make (3 + 1 + 1)/3 of it
    outputs, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert entropy(outputs, labels, weights=(3.0, 1.0)).item() == pytest.approx(5 / 3 * math.log(2), rel=1e-6)
    assert entropy(torch.zeros(3, 1), labels, weights=(3.0, 1.0)).item() == pytest.approx(5 / 3 * math.log(2), rel=1e-6)
    assert balanced(labels.numpy(), 2) == (1.5, 0.75)


def test_one_logit_is_two_logits_of_which_the_first_is_0() -> None:
    one = torch.randn(9, 1, generator=torch.Generator().manual_seed(0))
    two, labels = torch.cat([torch.zeros(9, 1), one], 1), torch.arange(9) % 2
    for smoothing in (0.0, 0.2):
        assert entropy(one, labels, smoothing).item() == pytest.approx(entropy(two, labels, smoothing).item(), rel=1e-6)
    assert CLASSIFICATION.sums(one.numpy(), labels.numpy()) == CLASSIFICATION.sums(two.numpy(), labels.numpy())


def test_a_regression_is_trained_without_its_unit_and_judged_in_it() -> None:
    task = CATALOGUE["regression"](Given(mean=(100.0,), std=(10.0,)))
    labels = np.array([[110.0], [100.0]], np.float32)
    outputs = np.array([[0.0], [2.0]], np.float32)  # 100 and 120
    assert task.loss(torch.from_numpy(outputs), torch.from_numpy(labels)).item() == pytest.approx((1 + 4) / 2)
    assert task.sums(outputs, labels) == {"score": pytest.approx(10 + 20)}
    with pytest.raises(ValueError, match="outputs have shape"):  # (n, 1) and (n,) would broadcast to (n, n)
        task.loss(torch.zeros(2, 1), torch.zeros(2))


def test_f1_and_iou_worked_by_hand() -> None:
    multi, segmentation = CATALOGUE["multi_label"](Given()), CATALOGUE["segmentation"](Given())
    said = np.array([[1.0, 1.0, -1.0], [-1.0, -1.0, -1.0]])
    # one of two right, one missed: 2·1/(2 + 2); nothing said of nothing: 1
    assert multi.sums(said, np.array([[1, 0, 1], [0, 0, 0]])) == {"score": 1.5}
    # two of four pixels are said to be class 1, one of them is: 1/2, and 2/3 of class 0; class 2 is nowhere
    logits = np.zeros((1, 3, 2, 2))
    logits[0, 1, 0] = 1
    assert segmentation.sums(logits, np.array([[[1, 0], [0, 0]]])) == {"score": pytest.approx((1 / 2 + 2 / 3) / 2)}


@pytest.mark.parametrize(
    ("name", "labels", "outputs", "said"),
    [
        ("classification", np.array([0, 3]), 3, "labels reach from 0 to 3, expected 0 to 2"),
        ("classification", np.array([[0], [1]]), 2, r"expected \(n,\)"),
        ("classification", np.array([0.5, 1.0]), 2, "expected one class for each example"),
        ("regression", np.zeros((4, 3)), 2, r"expected \(n, 2\)"),
        ("regression", np.array([1.0, np.nan]), 1, "not finite"),
        ("multi_label", np.array([[0, 2]]), 2, "of 0 and 1"),
        ("next_token", np.array([0, 1]), 5, r"expected \(n, T\)"),
        ("segmentation", np.zeros((2, 3), int), 2, r"expected \(n, H, W\)"),
        ("depth", np.zeros((2, 3)), 1, r"expected \(n, H, W\)"),
    ],
)
def test_labels_of_another_task_are_refused_in_one_line(name: str, labels: np.ndarray, outputs: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        CATALOGUE[name](Given()).labels(labels, outputs)
    assert "\n" not in str(caught.value)


def test_logs_say_accuracy_by_its_name_and_another_metric_with_its_direction() -> None:
    assert entry(CLASSIFICATION.metric, value=0.5, int8=None) == {"accuracy": 0.5, "accuracy_int8": None}
    error = Metric("mean absolute error", "mm", higher=False)
    told = entry(error, float=1.25, int8=1.5)
    assert (metric_in(told), value_in(told, "int8")) == (error, 1.5)
    assert (error.text(1.25), CLASSIFICATION.metric.text(0.98765), error.text(None)) == (
        "1.25 mm",
        "98.77 %",
        "not tested",
    )
    assert error.better(1.0, 2.0)
    assert not error.better(math.nan, 2.0)
