"""Whole trainings and evidence beside torch's: the same to rounding, and by the same rules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from natively import masked
from torch import nn

from fedprune import models, training
from fedprune.budgets import natively as budgets
from fedprune.graph import trace
from fedprune.native import library
from fedprune.tasks import Given
from fedprune.tasks.regression import regression
from fedprune.training import evidence, native, native_growth
from fedprune.training.divergence import Diverged
from fedprune.training.lean import Lean
from fedprune.training.optimisers import Steps
from fedprune.types import Masks, Params, Sgd, Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


class Case(NamedTuple):
    """A model, its masks, and batches of something that can be learnt."""

    model: nn.Module
    own: native.Model
    masks: Masks
    batches: list[tuple[Tensor, Tensor]]


def case(name: str, shape: tuple[int, ...], density: float = 0.3, examples: int = 90, batch: int = 20) -> Case:
    training.one_thread()
    torch.manual_seed(1)
    model = models.build(name, shape, 5)
    masks = masked(model, density)
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, examples)
    inputs = rng.normal(size=(examples, *shape)).astype(np.float32)
    inputs += rng.normal(size=(5, *shape)).astype(np.float32)[labels]
    batches = [(inputs[at : at + batch], labels[at : at + batch]) for at in range(0, examples, batch)]
    own = native.Model(trace(model, inputs), training.state_of(model))
    return Case(model, own, masks, batches)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and one[name].shape == other[name].shape for name in one)
    return max(float(np.abs(one[name] - other[name]).max(initial=0)) for name in one)


def strayed(one: Params, other: Params, begun: Params) -> float:
    """How far apart two trained models are, of how far the second has moved, in Euclidean norms."""

    def norm(of: Params, less: Params) -> float:
        return float(np.sqrt(sum(np.sum(np.square(of[n] - less[n], dtype=np.float64)) for n in of)))

    return norm(one, other) / norm(other, begun)


@pytest.mark.parametrize("steps", [Steps(), Steps(clip=0.5, proximal=0.1)])
@pytest.mark.parametrize(("name", "shape"), [("digits_cnn", (1, 8, 8)), ("har_cnn", (9, 64)), ("dscnn", (1, 20, 10))])
def test_a_training_ends_where_torchs_does(name: str, shape: tuple[int, ...], steps: Steps) -> None:
    model, own, masks, batches = case(name, shape)
    begun, sgd = {n: v.copy() for n, v in training.state_of(model).items()}, Sgd(0.02, 0.9, 5e-4)
    outcome, params = native.train(own, batches, sgd, masks, examples=20, steps=steps)
    wanted = training.train(model, batches, sgd, masks, steps=steps)
    # by norms: on some processors a ReLU at 0 goes the other way in one of them, which moves a few weights
    assert strayed(params, training.state_of(model), begun) < 1e-3
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert (outcome.sums, outcome.examples) == (wanted.sums, wanted.examples)
    assert not any(params[name][~mask].any() for name, mask in masks.items())


def test_a_regression_ends_where_torchs_does() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    inputs, targets = (rng.normal(size=(53, n)).astype(np.float32) for n in (6, 2))
    batches = [(inputs[at : at + 20], 50 + 7 * targets[at : at + 20]) for at in (0, 20, 40)] * 10
    mean, std = np.array([50, 49], np.float32), np.array([7, 6], np.float32)
    task = regression(Given(mean=(50.0, 49.0), std=(7.0, 6.0)))
    own = native.Model(trace(model, inputs), training.state_of(model), (mean, std))
    outcome, params = native.train(own, batches, Sgd(0.05), {}, examples=20, task=task)
    wanted = training.train(model, batches, Sgd(0.05), task=task)
    assert apart(params, training.state_of(model)) < 1e-4
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert outcome.sums == pytest.approx(wanted.sums, rel=1e-4)
    state = training.state_of(model)
    tested = native.evaluate(own._replace(params=state), batches, 20, task)
    right = training.evaluate(model, batches, task)
    assert (tested.loss, tested.sums) == (pytest.approx(right.loss, rel=1e-4), pytest.approx(right.sums, rel=1e-4))


def test_two_hundred_steps_learn_as_much() -> None:
    losses = {"torch": [], "native": []}
    for seed in range(3):
        model, own, masks, batches = case("digits_cnn", (1, 8, 8), density=0.1, examples=400, batch=20)
        many = [batches[at] for at in np.random.default_rng(seed).integers(0, len(batches), 200)]
        losses["native"].append(native.train(own, many, Sgd(0.01, 0.9), masks, examples=20)[0].loss / 4000)
        losses["torch"].append(training.train(model, many, Sgd(0.01, 0.9), masks).loss / 4000)
    spread = max(np.ptp(losses["torch"]), 0.01)
    assert abs(np.mean(losses["native"]) - np.mean(losses["torch"])) < spread
    assert max(losses["native"]) < 1.2  # of ln 5 = 1.6


def test_a_last_batch_of_one_goes_by_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in (5, 1)]
    own = native.Model(trace(model, batches[0][0]), training.state_of(model))
    _, params = native.train(own, batches, Sgd(0.1), {}, examples=5)
    training.train(model, batches, Sgd(0.1))
    state = training.state_of(model)
    del state["2.num_batches_tracked"]
    assert apart({name: params[name] for name in state}, state) < 1e-5


def test_evidence_is_torchs() -> None:
    model, own, masks, batches = case("dscnn", (1, 20, 10))
    outcome, wanted = native.evaluate(own, batches, 20), training.evaluate(model, batches)
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-5)
    assert (outcome.sums, outcome.examples) == (wanted.sums, wanted.examples)
    inputs, labels = (np.concatenate(each) for each in zip(*batches, strict=True))
    counts = dict.fromkeys([*masks][:5], 7)
    found = native_growth.top_gradients(own, inputs, labels, masks, counts)
    right = evidence.top_gradients(model, inputs, labels, masks, counts)
    for name, top in right.items():
        assert found[name].position.tolist() == top.position.tolist()
        np.testing.assert_allclose(found[name].value, top.value, rtol=1e-2)
    moments = native.bn_statistics(own, batches, 20)
    for name, each in evidence.bn_statistics(model, batches).items():
        np.testing.assert_allclose(moments[name].mean, each.mean, atol=1e-5)
        np.testing.assert_allclose(moments[name].variance, each.variance, rtol=1e-4)
        assert moments[name].examples == each.examples


def test_micro_batches_recomputed_without_norms_end_in_the_same_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 9, 3), nn.ReLU(), nn.Conv1d(9, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 4))
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(22, 3, 16)).astype(np.float32), rng.integers(0, 4, 22)) for _ in range(3)]
    own = native.Model(trace(model, batches[0][0]), training.state_of(model))
    _, whole = native.train(own, batches, Sgd(0.1), {}, examples=22)
    _, cut = native.train(own, batches, Sgd(0.1), {}, examples=22, lean=Lean(micro_batch=9, recompute=True))
    assert apart(whole, cut) == 0


@pytest.mark.parametrize("name", ["resnet8", "dscnn", "har_cnn"])
def test_what_is_computed_twice_takes_no_room(name: str) -> None:
    """Of a chain of layers too, whose norms read what is not kept."""
    shape = {"dscnn": (1, 49, 10), "har_cnn": (9, 128)}.get(name, (3, 32, 32))
    model = models.build(name, shape, 10)
    own = native.Model(trace(model, torch.zeros(1, *shape)), training.state_of(model))
    whole, again = (budgets.training(own, {}, 16, Lean(recompute=each)).total for each in (False, True))
    assert again < 0.9 * whole


def test_divergence_names_what_is_largest() -> None:
    _, own, masks, batches = case("digits_cnn", (1, 8, 8))
    with pytest.raises(Diverged, match="the loss is"):
        native.train(own, batches * 20, Sgd(1e6), masks, examples=20)


def test_batches_are_as_a_device_makes_them() -> None:
    """Of two, where a single example is left over it joins another: three."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(7, 6)).astype(np.float32), rng.integers(0, 3, 7)
    batches = list(training.in_batches(lambda part: inputs[part], labels, range(7), 2, least=2))
    assert sorted(len(few) for _, few in batches) == [2, 2, 3]
    own = native.Model(trace(model, inputs), training.state_of(model))
    _, params = native.train(own, batches, Sgd(0.1), {}, examples=2)
    training.train(model, batches, Sgd(0.1))
    assert apart(params, training.state_of(model)) < 1e-4
    with pytest.raises(ValueError, match="a batch of 17 examples, with room for 8"):
        native.evaluate(own, [(np.zeros((17, 6), np.float32), np.zeros(17, np.int64))], 5)
