"""RD-prune's claims: distortions of layers add up, and a budget shared by them distorts outputs least."""

import functools
from collections.abc import Mapping

import digits_world
import here
import numpy as np
import pytest
import torch
from central_runs import LAYERS, digits, initial, lenet, load, on, paired

from fedprune.data.loading import in_order
from fedprune.methods import MethodError, build
from fedprune.methods.dynamic.rd_prune import rd_prune
from fedprune.methods.layers import dense
from fedprune.pruning import masks
from fedprune.pruning.allocation import by_module, erk, ranked, uniform
from fedprune.pruning.topk import kept_count, top_k
from fedprune.runs.setting import prepare
from fedprune.types import Allocation, Found, Masks, Params, Tensor

SEEDS, GRID = range(5), 20


@functools.cache
def trained(seed: int) -> Params:
    return on(dense(LAYERS)(initial(seed)), range(1, 9), seed).params


def outputs(params: Params, kept: Masks, noise: bool = False) -> Tensor:
    """Over the training examples, or over noise."""
    dataset, train, _ = digits()
    net = lenet()
    load(net, masks.apply(params, kept))
    drawn = np.random.default_rng(0).uniform(-(3**0.5), 3**0.5, (512, *dataset.input_shape)).astype(np.float32)
    batches = [drawn] if noise else [inputs for inputs, _ in in_order(dataset, train, 500)]
    with torch.no_grad():
        return np.concatenate([net(torch.from_numpy(inputs)).numpy() for inputs in batches])


def distortion(params: Params, kept: Masks, noise: bool = False) -> float:
    apart = outputs(params, kept, noise) - outputs(params, {}, noise)
    return float(np.square(apart, dtype=np.float64).sum(1).mean())


def largest(params: Params, densities: Mapping[str, float]) -> Masks:
    """Of each layer the largest, so many of them."""
    return {n: top_k(np.abs(params[n]), kept_count(share, params[n].size)) for n, share in densities.items()}


def curves(params: Params, noise: bool = False) -> Found:
    """What devices would measure: of each layer alone, at shares of what it has left."""

    def at(name: str, step: int) -> float:
        few = kept_count(step / GRID, int(np.count_nonzero(params[name])))
        return distortion(params, {name: top_k(np.abs(params[name]), few)}, noise)

    found = np.array([[at(name, step) for step in range(1, GRID)] for name in LAYERS])
    return {"curves": {"mean": found, "worst": found, "examples": np.asarray(1)}}


RULES: dict[str, Allocation] = {
    "uniform": uniform, "erk": erk(LAYERS), "global": ranked(), "lamp": by_module(lambda layer: layer)
}  # fmt: skip


@pytest.mark.parametrize(("density", "levels"), [(0.3, 1), (0.1, 5)])
def test_a_budget_shared_by_the_knapsack_distorts_less_than_by_any_other_rule(density: float, levels: int) -> None:
    """At 30 % in one level others distort 4.3 (uniform), 1.28 (ERK), 1.17 (global) and 1.16 times (LAMP) as much.

    At 10 % in five 1.95, 1.08, 1.06 and 1.06 times, of which the last two are within their intervals over five seeds;
    in one level, of a grid of 20, it is ERK, global and LAMP that distort a tenth less: layers' distortions are large
    there, and add up no more.
    """
    found: dict[str, list[float]] = {name: [] for name in RULES}
    for seed in SEEDS:
        params = trained(seed)
        sizes = {name: np.abs(params[name]) for name in LAYERS}
        method = rd_prune(LAYERS, density=density, levels=levels, period=1, grid=GRID)
        model = method.start(params)
        for round in range(levels):
            model = method.act(model, curves(model.params), round)
        assert masks.kept(model.masks) == kept_count(density, sum(map(np.size, sizes.values())))
        ours = distortion(params, model.masks)
        for name, rule in RULES.items():
            theirs = largest(params, rule(sizes, density))
            assert masks.kept(theirs) <= masks.kept(model.masks)
            found[name].append(float(np.log(distortion(params, theirs) / ours)))
    for name, each in found.items():
        mean, half = paired(each)
        # how clear it is of the others, rounding decides: 0.09 ± 0.13 over global on one processor, 0.16 on another
        assert mean > (half if name == "uniform" or (density, name) == (0.3, "erk") else 0), name


def test_noise_shares_a_budget_better_than_all_layers_alike() -> None:
    """At 30 % in one level outputs of examples move 1.03 times as much by what noise chose as by what they did.

    With all layers alike they move 3.8 times as much as that.
    """
    by: dict[str, list[float]] = {"noise": [], "uniform": []}
    for seed in SEEDS:
        params = trained(seed)
        method = rd_prune(LAYERS, density=0.3, levels=1, grid=GRID, noise=True)
        (ask,) = method.asks(method.start(params), 0, {}).values()
        assert ask.kind == "distortion_of_noise"
        with_data, without = (method.act(method.start(params), curves(params, noise), 0) for noise in (False, True))
        alike = largest(params, uniform({name: np.abs(params[name]) for name in LAYERS}, 0.3))
        ours = distortion(params, with_data.masks)
        by["noise"].append(float(np.log(distortion(params, without.masks) / ours)))
        by["uniform"].append(float(np.log(distortion(params, alike) / distortion(params, without.masks))))
    mean, half = paired(by["uniform"])
    assert mean > half
    mean, half = paired(by["noise"])
    assert mean - half < np.log(1.2)


def test_distortions_of_layers_add_up() -> None:
    """Where each layer keeps a quarter or more, what is predicted explains 99.9 % of what is measured (R²)."""
    added, whole, rng = list[float](), list[float](), np.random.default_rng(0)
    for seed in SEEDS:
        params = trained(seed)
        table = curves(params)["curves"]["mean"]
        for _ in range(10):
            steps = rng.integers(GRID // 4, GRID - 1, len(LAYERS))
            added.append(sum(float(row[step]) for row, step in zip(table, steps, strict=True)))
            shares = {name: (step + 1) / GRID for name, step in zip(LAYERS, steps, strict=True)}
            whole.append(distortion(params, largest(params, shares)))
    missed = np.sum(np.subtract(whole, added) ** 2) / np.sum((whole - np.mean(whole)) ** 2)
    assert 1 - missed > 0.98


def test_over_a_fleet_devices_measure_and_the_budget_is_met() -> None:
    """Two levels, the second of the model as it was trained in between; natively and in torch they choose alike."""
    table = digits_world.experiment(
        {"name": "rd_prune", "density": 0.1, "levels": 2, "period": 1, "grid": 8}, 0, rounds=2
    )
    setting = prepare(table, "test")
    ends = [[*here.steps(setting, here.dense(table), native=native)] for native in (False, True)]
    for steps in ends:
        assert [step.row.get("phase") for step in steps].count("distortion") == 2
        assert masks.density(steps[-1].state.masks) == pytest.approx(0.1, abs=0.001)
    one, other = (masks.densities(steps[-1].state.masks) for steps in ends)
    assert one == pytest.approx(other, rel=0.3)
    assert max(one.values()) > 1.1 * min(one.values())


@pytest.mark.parametrize("key", ["levels", "period", "grid", "examples"])
def test_numbers_below_1_are_refused(key: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {key} 0 is below 1$"):
        build({"name": "rd_prune", "density": 0.1, key: 0}, LAYERS, 0)
