"""What native training takes is known before it begins: arenas, plans of small tiers, devices that have no trainer."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import tiny_world
from hypothesis import given
from hypothesis import strategies as st

from fedprune.budgets import natively
from fedprune.counter_rng import uniforms
from fedprune.experiment import Experiment
from fedprune.federated.rounds.jobs import Room
from fedprune.native import library
from fedprune.native.machine import Machine
from fedprune.runs.setting import prepare
from fedprune.training import native
from fedprune.training.lean import Lean

pytestmark = pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed")


def of_tiers(**changes: Any) -> Experiment:
    """A tier that holds half of the weights, and one whose memory would not hold torch."""
    fleet = {"large": {"devices": 2}, "small": {"devices": 2, "density": 0.1, "train_memory_bytes": "110 MiB"}}
    method = {**tiny_world.FEDTINY, "density": 0.5}
    return tiny_world.experiment(**{"fleet": fleet, "method": method, "training": {"batch": 8}, **changes})


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.floats(0, 1))
def test_masks_of_a_count_keep_as_many(shape: list[int], part: float) -> None:
    count = round(part * prod(shape))
    (mask,) = natively.spread({"layer": count}, {"layer": tuple(shape)}).values()
    assert mask.shape == tuple(shape)
    assert np.count_nonzero(mask) == count


@pytest.mark.parametrize("way", [Lean(), Lean(recompute=True), Lean(4, recompute=True)])
def test_an_arena_is_as_large_as_was_said_and_hardly_depends_on_which_weights_are_kept(way: Lean) -> None:
    costs = prepare(of_tiers(), "test").plan.costs  # type: ignore[union-attr]
    model, masks = costs.natively(0.2)
    said = natively.training(model, masks, 8, way)
    plan, (form,) = native.planned(model, masks, 8, way)
    assert 4 * Machine(plan, form.held, native.programs_of([form])).elements == said.total == sum(said)
    others = {name: uniforms(1, name, mask.shape) < mask.mean() for name, mask in masks.items()}
    assert natively.training(model, others, 8, way).total == pytest.approx(said.total, rel=0.02)


def test_a_tier_too_small_for_torch_trains_natively() -> None:
    plan = prepare(of_tiers(), "test").plan
    assert plan is not None
    assert plan.tiers["small"].size == 0.1
    for job in plan.jobs["small"]:
        assert natively.RUNTIME_BYTES < job.needs_bytes <= 110 * 2**20
    with pytest.raises(Exception, match=r"fleet.small.train_memory_bytes: nothing fits in 115,343,360 bytes"):
        prepare(of_tiers(training={"batch": 8, "engine": "torch"}), "test")


def test_a_device_without_the_compiled_trainer_gets_what_torch_needs() -> None:
    setting = prepare(of_tiers(), "test")
    tiers = setting.tiers()
    rooms = {0: Room(2**40), 1: Room(2**40, False), 2: Room(2**40), 3: Room(2**40, False)}
    jobs = tiers.jobs(range(4), rooms)
    assert jobs[0].needs_bytes < 130e6 < 300e6 < jobs[1].needs_bytes
    assert 3 not in jobs  # its tier may not use what torch does
    assert 1 not in tiers.jobs(range(4), {**rooms, 1: Room(200_000_000, False)})
    assert 0 in tiers.jobs(range(4), {**rooms, 0: Room(200_000_000)})
    assert (
        tiers.tests("large", [0, 1], rooms)[1].needs_bytes > 300e6 > tiers.tests("large", [0, 1], rooms)[0].needs_bytes
    )


@pytest.mark.parametrize("method", [{"name": "snip", "density": 0.2}, {"name": "lottery_jackpots", "density": 0.2}])
def test_what_needs_torch_on_devices_is_planned_with_it(method: dict[str, Any]) -> None:
    fleet = {"one": {"devices": 4}}
    plan = prepare(of_tiers(fleet=fleet, method=method), "test").plan
    assert plan is not None
    assert not plan.costs.native
    assert all(job.needs_bytes > 300e6 for job in plan.jobs["one"])
