"""Smaller models trained along with the one that they are nested in: as with torch, turn by turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from natively import masked
from torch import nn

from fedprune import models, training
from fedprune.budgets import natively
from fedprune.graph import trace
from fedprune.native import library
from fedprune.training import native
from fedprune.training.lean import PLAIN, Lean, SubModel
from fedprune.training.native_steps import Inner
from fedprune.training.optimisers import Steps
from fedprune.types import Masks, Params, Sgd, Tensor

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")
Batch = tuple[Tensor, Tensor]


def within(model: nn.Module, masks: Masks, densities: Sequence[float]) -> list[Masks]:
    """Ever smaller masks, one in the other, each of so much of the model's."""
    rng, found, last = np.random.default_rng(5), [], masks
    for density in densities:
        last = {name: mask & (rng.random(mask.shape) < density) for name, mask in last.items()}
        for mask in last.values():
            mask.reshape(len(mask), -1)[:, 0] = True
        found.append(last)
    return found


def buffers_of(model: nn.Module) -> Params:
    named, held = training.state_of(model), dict(model.named_buffers())
    return {name: np.array(value + (0.1 if value.ndim else 0)) for name, value in named.items() if name in held}


def batches_of(shape: tuple[int, ...], examples: int, batch: int = 20) -> list[Batch]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, examples)
    inputs = rng.normal(size=(examples, *shape)).astype(np.float32)
    inputs += rng.normal(size=(5, *shape)).astype(np.float32)[labels]
    return [(inputs[at : at + batch], labels[at : at + batch]) for at in range(0, examples, batch)]


def in_turn(count: int) -> Callable[[int], int]:
    """The whole one, the smallest, the largest of the smaller, and so on: other ones follow each of them."""
    order = itertools.cycle([0, *range(count, 0, -1), *range(count + 1)])
    return lambda step: next(order)


def apart(one: Params, other: Params) -> float:
    assert one.keys() == other.keys()
    assert all(one[n].dtype == other[n].dtype and one[n].shape == other[n].shape for n in one)
    return max(float(np.abs(one[n] - other[n]).max(initial=0)) for n in one)


@pytest.mark.parametrize("steps", [Steps(), Steps(clip=0.5, proximal=0.1)])
@pytest.mark.parametrize("densities", [[0.5], [0.6, 0.4]])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_parts_in_turn_end_where_torchs_do(density: float, densities: list[float], steps: Steps) -> None:
    """Momentum and decay move what a smaller part has not; one is sparse in a dense one, or dense under a mask."""
    training.one_thread()
    torch.manual_seed(1)
    model = models.build("digits_cnn", (1, 8, 8), 5)
    masks = masked(model, density)
    every = masks or {n: np.ones(tuple(p.shape), np.bool_) for n, p in model.named_parameters() if p.ndim > 1}
    parts = within(model, every, densities)
    given = buffers_of(model)
    batches, sgd = batches_of((1, 8, 8), 200), Sgd(0.02, 0.9, 5e-3)
    inner = [Inner(part, {n: v.copy() for n, v in given.items()}) for part in parts]
    subs = [SubModel(part, {n: torch.from_numpy(v.copy()) for n, v in given.items()}) for part in parts]
    own = native.Model(trace(model, batches[0][0]), training.state_of(model))
    outcome, params = native.train(
        own, batches, sgd, masks, examples=20, steps=steps, inner=inner, turn=in_turn(len(parts))
    )
    wanted = training.train(model, batches, sgd, masks, steps=steps, inner=subs, turn=in_turn(len(parts)))
    assert apart(params, training.state_of(model)) < 1e-4
    assert outcome.loss == pytest.approx(wanted.loss, rel=1e-4)
    assert (outcome.sums, outcome.examples) == (wanted.sums, wanted.examples)
    for one, other in zip(inner, subs, strict=True):
        assert apart(one.buffers, {name: value.numpy() for name, value in other.buffers.items()}) < 1e-4
        assert apart(one.buffers, given) > 1e-2
    (count, *_) = (name for name in given if name.endswith("num_batches_tracked"))
    assert sum(each[count] for each in (params, *(each.buffers for each in inner))) == len(batches)


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_without_norms_micro_batches_end_in_the_same_bits(density: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 9, 3), nn.ReLU(), nn.Conv1d(9, 7, 3), nn.ReLU(), nn.Flatten(), nn.Linear(84, 4))
    masks = masked(model, density)
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(22, 3, 16)).astype(np.float32), rng.integers(0, 4, 22)) for _ in range(5)]
    every = masks or {n: np.ones(tuple(p.shape), np.bool_) for n, p in model.named_parameters() if p.ndim > 1}
    parts = within(model, every, [0.6, 0.4])
    own = native.Model(trace(model, batches[0][0]), training.state_of(model))

    def trained(lean: Lean) -> Params:
        inner = [Inner(part, {}) for part in parts]
        return native.train(own, batches, Sgd(0.1), masks, examples=22, lean=lean, inner=inner, turn=in_turn(2))[1]

    whole = trained(PLAIN)
    for lean in (PLAIN, Lean(micro_batch=9), Lean(micro_batch=9, recompute=True)):
        assert apart(trained(lean), whole) == 0
    _, alone = native.train(own, batches, Sgd(0.1), masks, examples=22)
    assert apart(alone, whole) > 1e-3


def test_a_smaller_part_has_a_last_batch_of_one_and_leaves_the_whole_ones_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(n, 6)).astype(np.float32), rng.integers(0, 3, n)) for n in (5, 1)]
    mask = {"1.weight": rng.random((8, 6)) < 0.4}
    given = buffers_of(model)
    inner = Inner(mask, {n: v.copy() for n, v in given.items()})
    sub = SubModel(mask, {n: torch.from_numpy(v.copy()) for n, v in given.items()})
    own = native.Model(trace(model, batches[0][0]), training.state_of(model))
    _, params = native.train(own, batches, Sgd(0.1), {}, examples=5, inner=[inner], turn=lambda step: 1)
    training.train(model, batches, Sgd(0.1), inner=[sub], turn=lambda step: 1)
    assert apart(params, training.state_of(model)) < 1e-5
    found = {name: value.numpy() for name, value in sub.buffers.items()}
    assert apart({**inner.buffers, "2.num_batches_tracked": found["2.num_batches_tracked"]}, found) < 1e-5


def test_the_arena_holds_what_smaller_parts_need() -> None:
    torch.manual_seed(1)
    model = models.build("digits_cnn", (1, 8, 8), 5)
    masks = masked(model, 0.3)
    own = native.Model(trace(model, np.zeros((1, 1, 8, 8), np.float32)), training.state_of(model))
    inner = [Inner(part, buffers_of(model)) for part in within(model, masks, [0.5])]
    alone = natively.training(own, masks, 16).total
    along = natively.training(own, masks, 16, inner=inner).total
    kept = sum(np.count_nonzero(mask) for mask in inner[0].masks.values())
    assert alone + 8 * kept < along < alone + 40 * sum(value.size for value in own.params.values())
