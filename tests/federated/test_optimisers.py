"""Optimisers over whole federated runs: every key acts, masks hold, and a stopped run ends in the same bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_world
from fleets import assert_same, fleet_of

from fedprune.federated.rounds.phases.server_step import MEAN, SQUARE
from fedprune.pruning.parts import statistics

TRAINING = {"batch": 8, "grow_batch": 16}
ADAM = {"server_optimiser": "adam", "server_learning_rate": 0.02}
EVERYTHING = {
    **ADAM, "optimiser": "adam", "learning_rate": 0.002, "clip_gradients": 1.0, "proximal": 0.1,
    "schedule": [{"rounds": 2, "to": 0.004}, {"rounds": 1, "to": 0.001, "along": "cosine"}],
}  # fmt: skip


def experiment(**training: Any) -> Any:
    return tiny_world.experiment(training={**TRAINING, **training})


@pytest.mark.parametrize(
    "training",
    [
        {"optimiser": "adam", "learning_rate": 0.002},
        {"clip_gradients": 0.1},
        {"proximal": 1.0},
        {"schedule": [{"rounds": 3, "to": 0.001}]},
        {"server_optimiser": "momentum"},
        ADAM,
        {"server_optimiser": "yogi"},
        {"server_optimiser": "adagrad"},
        {**ADAM, "aggregate": "median"},
    ],
)
def test_each_key_ends_in_a_model_of_its_own_under_the_masks(
    whole: Any, in_tmp: Callable[..., Any], training: dict[str, Any]
) -> None:
    run = in_tmp(experiment(**training))
    assert not any(row.get("faults") for row in run.rows)
    assert any(not np.array_equal(value, whole.state.params[name]) for name, value in run.state.params.items())
    assert tiny_world.pruned_are_zero(run.state.params, run.state.masks)
    assert min(row["loss"] for row in run.rows if row["phase"] == "evaluate") < 1.2


def test_momentum_without_momentum_is_plain_averaging(whole: Any, in_tmp: Callable[..., Any]) -> None:
    run = in_tmp(experiment(server_optimiser="momentum", server_momentum=0.0))
    for name, value in run.state.params.items():
        np.testing.assert_allclose(value, whole.state.params[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("phase", ["train", "top_gradients"])
def test_stopped_and_gone_on_with_by_two_workers(
    in_tmp: Callable[..., Any], go: Callable[..., Any], phase: str
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if (row.get("round"), row.get("phase")) == (2, phase):
            raise KeyboardInterrupt

    asked = experiment(**EVERYTHING)
    whole = in_tmp(asked)
    with pytest.raises(KeyboardInterrupt):
        go(asked, progress=stop, workers=2)
    again = go(asked, resume=True)
    assert_same(whole.state, again.state)
    assert whole.state.moments.keys() == again.state.moments.keys()
    for key, value in whole.state.moments.items():
        assert value.tobytes() == again.state.moments[key].tobytes()


def test_what_is_dropped_is_forgotten(in_tmp: Callable[..., Any]) -> None:
    run = in_tmp(experiment(**ADAM))
    state, before = run.state, run.states[0]
    assert any((mask & ~before.masks[name]).any() for name, mask in state.masks.items())
    for name, value in state.params.items():
        if name in statistics(state.params):
            assert MEAN + name not in state.moments
            continue
        for kind in (MEAN, SQUARE):
            kept = state.masks.get(name, np.ones(value.shape, np.bool_))
            assert not state.moments[kind + name][~kept].any()
            assert state.moments[kind + name][kept].any()


@pytest.mark.parametrize("method", ["fedtiny", "heterofl", "fedrolex", "fjord"])
def test_unequal_tiers(in_tmp: Callable[..., Any], method: str) -> None:
    training = {key: value for key, value in EVERYTHING.items() if key != "schedule"}
    run = in_tmp(fleet_of(method, rounds=2, training=training))
    assert not any(row.get("faults") for row in run.rows)
    assert all(np.isfinite(value).all() for value in run.state.params.values())
    assert tiny_world.pruned_are_zero(run.state.params, run.state.masks) == (method == "fedtiny")


def test_what_no_device_owns_stays(in_tmp: Callable[..., Any]) -> None:
    """Only small tiers train: the weights beyond them are the pretrained ones, whatever the server's momentum."""
    fleet = {"small": {"devices": 4, "density": 0.25}}
    run = in_tmp(fleet_of("heterofl", rounds=2, fleet=fleet, training=ADAM))
    first, last = run.states[0], run.state
    (part,) = last.parts.values()
    for name, mask in part.masks.items():
        if name not in statistics(last.params) and name.endswith("weight"):
            assert np.array_equal(last.params[name][~mask], first.params[name][~mask])
            assert not last.moments[MEAN + name][~mask].any()
            assert (last.params[name][mask] != first.params[name][mask]).any()
