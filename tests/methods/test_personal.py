"""Dis-PFL and SpaFL: what real rounds leave a device; hand-worked rounds are in tests/golden."""

from typing import Any

import battery
import numpy as np
import pytest

from fedprune.federated.rounds.model import State
from fedprune.methods import MethodError, build
from fedprune.pruning import masks
from fedprune.types import Holder, Masks, Params

DEVICES = range(battery.DEVICES)


def own(state: State, device: int, kind: str = "mask") -> Params:
    prefix = f"{kind}/{device}/"
    return {key.removeprefix(prefix): value for key, value in state.memory.items() if key.startswith(prefix)}


def counts(kept: Masks) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in kept.items()}


def test_dis_pfl_devices_come_to_masks_of_their_own_of_one_size() -> None:
    it = battery.ran("dis_pfl", {"stop": 2})
    trained = [state for state in it.states if own(state, 0)]
    wanted = counts(it.setting.method.start(it.begun.params).masks)
    for state in trained:
        assert all(counts(own(state, device)) == wanted for device in DEVICES)
    last = [own(it.last, device) for device in DEVICES]
    assert not masks.equal(*last)
    assert all(masks.nested(each, it.last.masks) for each in last)
    # no swap after the stop
    second = next(state for state in it.states if state.round == 2)
    assert all(masks.equal(own(second, device), own(it.last, device)) for device in DEVICES)


def test_spafl_devices_prune_whole_filters_of_weights_that_nobody_else_moves() -> None:
    it = battery.ran("spafl")
    thresholds = {name: it.last.memory[f"threshold/{name}"] for name in it.layers}
    assert all((each > 0).any() for each in thresholds.values())
    some = 0
    for device in DEVICES:
        kept, weights = own(it.last, device), own(it.last, device, "own")
        part = it.setting.method.part(it.last.model(), Holder(device, "", battery.ROUNDS + 1))
        for name, mask in kept.items():
            filters = mask.reshape(len(mask), -1)
            assert np.array_equal(filters.any(1), filters.all(1))
            above = np.abs(weights[name]).reshape(len(mask), -1).mean(1) > thresholds[name]
            assert (
                np.array_equal(filters.any(1), above & it.last.masks[name].reshape(len(mask), -1).any(1))
                or not above.any()
            )
            some += int((~mask).sum())
            assert np.array_equal(part.params[name], weights[name])
    assert some
    one, other = (own(it.last, device, "own") for device in DEVICES)
    assert any(not np.array_equal(one[name], other[name]) for name in it.layers)


def test_fedrts_keeps_every_layers_number_and_draws_where_devices_said_gradients() -> None:
    it = battery.ran("fedrts")
    acted = {state.round: state for state in reversed(it.states)}
    wanted = counts(acted[0].masks)
    assert all(counts(state.masks) == wanted for state in it.states)
    changed = [not masks.equal(acted[round].masks, acted[round + 1].masks) for round in range(battery.ROUNDS)]
    assert changed == [True, False, False]  # the stop is 2, where nothing is swapped any more
    alpha, beta = ({n: acted[1].memory[f"{each}/{n}"] for n in it.layers} for each in ("alpha", "beta"))
    for name, before in acted[0].masks.items():
        # each arm has heard of one outcome, of weight 10
        np.testing.assert_allclose(alpha[name] + beta[name], 12.0)
        assert alpha[name][before].mean() > alpha[name][~before].mean()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "spafl", "pull": 0.0}, "pull 0.0 is not above 0"),
        ({"name": "dis_pfl", "density": 0.1, "fraction": 1.5}, r"fraction 1.5 is outside \[0, 1\]"),
        ({"name": "fedrts", "density": 0.1, "scale": 0.0}, "scale 0.0 is not above 0"),
        ({"name": "fedrts", "density": 0.1, "period": 0}, "period 0 is not a positive number of steps"),
        (
            {"name": "fedmef", "density": 0.1, "penalty": -1.0},
            "penalty -1.0 or rate 0.0 is below 0, or budget 100 below 1",
        ),
        ({"name": "fedmef", "density": 0.1, "activations": 0.0}, r"activations 0.0 is outside \(0, 1\]"),
        ({"name": "fedtiny_halving", "density": 0.1, "pool": 0}, "pool 0 is below 1"),
        ({"name": "fedtiny_halving", "density": 0.1, "trial": 0}, "trial 0 is below 1"),
    ],
)
def test_a_number_out_of_range_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        build(table, {"w": (40, 40)}, 0)
