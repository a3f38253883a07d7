"""SNIP, GraSP and SynFlow: what their papers claim, on digits; hand-worked masks are in tests/golden."""

from typing import Any

import digits_world
import here
import numpy as np
import pytest

from fedprune import wire
from fedprune.data.loading import load_dataset
from fedprune.federated.rounds.jobs import Job
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.measure import measure
from fedprune.methods.static.synflow import synflow
from fedprune.pruning import masks
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import prepare
from fedprune.types import Masks


def pruned(name: str, density: float, seed: int, devices: int = 1, **given: Any) -> Masks:
    """Masks before training, of the seed's first weights."""
    data = {**digits_world.DATA, "devices": devices}
    setting = prepare(digits_world.experiment({"name": name, "density": density, **given}, seed, data=data), "test")
    step = next(here.steps(setting, pretrain(setting)))
    while step.state.round < 0:
        step = next(here.steps(setting, step.state))
    return step.state.masks


def empty(found: Masks) -> list[str]:
    """Layers of which nothing is left."""
    return [name for name, mask in found.items() if not mask.any()]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("density", [0.02, 0.003])
def test_synflow_empties_no_layer_where_one_threshold_on_magnitude_does(density: float, seed: int) -> None:
    found = pruned("synflow", density, seed)
    assert masks.kept(found) == int(density * 16400)
    assert not empty(found)
    assert empty(pruned("magnitude", density, seed)) == ["4.weight"]
    # every kept weight is on a path: its neuron has inputs, and feeds a neuron that is read
    first, second = found["1.weight"], found["4.weight"]
    assert np.array_equal(first.any(1), second.any(0))


@pytest.mark.parametrize("seed", range(2))
def test_synflow_in_one_step_is_not_what_many_steps_come_to(seed: int) -> None:
    one, few, many = (pruned("synflow", 0.02, seed, iterations=n) for n in (1, 30, 100))
    first, second = one["1.weight"], one["4.weight"]
    # at once neurons are kept that nothing leads to, or that lead nowhere
    assert not np.array_equal(first.any(1), second.any(0))
    alike = masks.kept(masks.intersect(few, many)) / masks.kept(masks.union(few, many))
    apart = masks.kept(masks.intersect(one, many)) / masks.kept(masks.union(one, many))
    assert apart < alike


def test_synflow_costs_one_message_however_many_steps_it_takes() -> None:
    setting = prepare(digits_world.experiment({"name": "synflow", "density": 0.1}, 0), "test")
    state: State = pretrain(setting)

    def sent(iterations: int) -> int:
        method = synflow(setting.layers, density=0.1, iterations=iterations)
        (ask,) = method.asks(method.start(state.params), 0, {}).values()
        request = measure(ask, 0).request(State(0, state.params, masks.ones_like(setting.layers)), Job())
        return len(wire.encode(dict(request.tensors), request.masks)) + len(str(request.values))

    assert sent(100) - sent(1) < 100 * 25  # a number a step
    assert sent(1) < sum(value.nbytes for value in state.params.values()) + 1000


def test_the_answer_to_synflow_is_that_of_a_device_whatever_its_examples() -> None:
    method = {"name": "synflow", "density": 0.05, "iterations": 20}
    many, one = (
        prepare(digits_world.experiment(method, 0, data={**digits_world.DATA, "devices": devices}), "test")
        for devices in (4, 1)
    )
    state = pretrain(many)
    found = []
    for setting in (many, one):
        step = next(here.steps(setting, state))
        found.append(step.state.found["grad"] if step.state.round < 0 else step.state.masks)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_snip_keeps_no_weight_of_a_pixel_that_says_nothing() -> None:
    """A pixel that is the same in every image changes nothing behind batch norm, and three of the digits' are so."""
    found = pruned("snip", 0.1, 0, devices=4)["1.weight"]
    setting = prepare(digits_world.experiment({"name": "fedavg"}, 0), "test")
    images = load_dataset(setting.experiment.data.name).train.inputs.reshape(-1, 64)
    silent = images.min(0) == images.max(0)
    assert silent.sum() == 3
    assert not found[:, silent].any()
    assert pruned("random_erk", 0.1, 0)["1.weight"][:, silent].any()
    # the same weights, where pixels speak
    assert found[:, ~silent].mean() > 0.05


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_four_devices_keep_what_the_pooled_gradient_says(name: str) -> None:
    """Without batch norm, devices' gradients pool to that of all examples, and so do their products with H."""
    table = {"name": name, "density": 0.1}
    found = []
    for devices in (4, 1):
        data = {**digits_world.DATA, "devices": devices, "test": 0.0, "development": 0.0}
        experiment = digits_world.experiment(table, 0, data=data, model="digits_world:plain")
        setting = prepare(experiment, "test")
        found.append(next(step.state for step in here.steps(setting, pretrain(setting)) if not step.state.round).masks)
    both, either = masks.kept(masks.intersect(*found)), masks.kept(masks.union(*found))
    assert both / either > 0.99
