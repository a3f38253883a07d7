"""Laws of the server's optimiser, and steps of it worked by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedprune.experiment import Training
from fedprune.federated.rounds.phases.server_step import MEAN, SQUARE, forgotten, owned_by_any, stepped
from fedprune.types import Params

KINDS = ["momentum", "adam", "yogi", "adagrad"]
weights = arrays(np.float32, 6, elements=st.floats(-4, 4, width=32))


def settings(kind: str, **changes: Any) -> Training:
    return Training(server_optimiser=kind, **changes)  # type: ignore[arg-type]


def one(value: float) -> Params:
    return {"w": np.array([value], np.float32)}


@given(weights, weights)
def test_momentum_without_momentum_at_rate_1_is_plain_averaging(before: np.ndarray, joined: np.ndarray) -> None:
    params, _ = stepped(settings("momentum", server_momentum=0.0), {"w": before}, {"w": joined}, {}, {})
    np.testing.assert_allclose(params["w"], joined, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "yogi", "adagrad"])
@given(before=weights, joined=weights)
def test_so_are_the_others_in_the_limit_of_a_large_epsilon(kind: str, before: np.ndarray, joined: np.ndarray) -> None:
    far = settings(kind, server_momentum=0.0, server_beta2=0.9999, server_epsilon=1e6, server_learning_rate=2e6)
    # √v begins with τ too
    params, _ = stepped(far, {"w": before}, {"w": joined}, {}, {})
    np.testing.assert_allclose(params["w"], joined, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        # Δ = 2, then −1: m = 2, then 0.5 · 2 − 1 = 0
        ("momentum", 1 + 0.1 * 2, 1.2),
        # m = 1, then 0.5 − 0.5 = 0; v = 0.75 · 1² + 0.25 · 4 = 1.75
        ("adam", 1 + 0.1 * 1 / (1.75**0.5 + 1), 1.0430501),
        # v = 1 − 0.25 · 4 · sign(1 − 4) = 2
        ("yogi", 1 + 0.1 * 1 / (2**0.5 + 1), 1.0414214),
        # v = 1 + 4
        ("adagrad", 1 + 0.1 * 1 / (5**0.5 + 1), 1.0309017),
    ],
)
def test_two_steps_worked_by_hand(kind: str, first: float, second: float) -> None:
    asked = settings(kind, server_learning_rate=0.1, server_momentum=0.5, server_beta2=0.75, server_epsilon=1.0)
    params, moments = stepped(asked, one(1), one(3), {}, {})
    assert params["w"] == pytest.approx(first)
    later, again = stepped(asked, params, {"w": params["w"] - np.float32(1)}, {}, moments)
    assert again[MEAN + "w"] == pytest.approx(0, abs=1e-6)
    assert later["w"] == pytest.approx(second)
    if kind == "adam":
        assert again[SQUARE + "w"] == pytest.approx(0.75 * 1.75 + 0.25)
    assert params["w"].dtype == later["w"].dtype == again[MEAN + "w"].dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_somebody_owned_moves(kind: str) -> None:
    before, joined = {"w": np.zeros(3, np.float32)}, {"w": np.array([1, 1, 0], np.float32)}
    params, moments = stepped(settings(kind), before, joined, {}, {})
    assert (params["w"] > 0).tolist() == [True, True, False]
    owned = owned_by_any(["w"], [{"w": np.array([True, False, False])}, {"w": np.array([False, False, True])}])
    later, again = stepped(settings(kind), params, {"w": params["w"]}, owned, moments)
    assert (later["w"] != params["w"]).tolist() == [True, False, False]  # of its momentum alone
    for key, value in again.items():
        assert (value[1], value.dtype) == (moments[key][1], np.float32)
    assert owned_by_any(["w"], [{"w": np.array([True])}, {}]) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_counters_and_running_statistics_are_as_joined(kind: str) -> None:
    joined = {
        "norm.running_mean": np.ones(2, np.float32), "norm.running_var": np.full(2, 3, np.float32),
        "norm.num_batches_tracked": np.asarray(7), "flags": np.array([True, False]), "w": np.ones(2, np.float32),
    }  # fmt: skip
    before = {name: np.zeros_like(value) for name, value in joined.items()}
    params, moments = stepped(settings(kind), before, joined, {}, {})
    assert all(np.array_equal(params[name], joined[name]) for name in joined if name != "w")
    assert {key.partition("/")[2] for key in moments} == {"w"}


@pytest.mark.parametrize("kind", KINDS)
@given(before=weights, joined=weights, mask=arrays(np.bool_, 6))
def test_what_is_pruned_stays_0_and_is_forgotten(
    kind: str, before: np.ndarray, joined: np.ndarray, mask: np.ndarray
) -> None:
    dense, kept = {"w": before}, {"w": np.where(mask, before, np.float32(0))}
    _, moments = stepped(settings(kind), dense, {"w": joined}, {}, {})
    moments = forgotten(moments, {"w": mask}, dense, kept)
    assert not any(value[~mask].any() for value in moments.values())
    trained = {"w": np.where(mask, joined, np.float32(0))}
    params, moments = stepped(settings(kind), kept, trained, {"w": mask}, moments)
    assert params["w"][~mask].tobytes() == bytes(4 * int((~mask).sum()))
    # what grows now begins as everything did at first
    grown, _ = stepped(settings(kind), params, {"w": params["w"] + np.float32(1)}, {}, moments)
    fresh, _ = stepped(settings(kind), one(0), one(1), {}, {})
    np.testing.assert_allclose(grown["w"][~mask], np.broadcast_to(fresh["w"], (~mask).sum()), rtol=1e-6)


def test_weights_that_the_method_puts_elsewhere_begin_anew() -> None:
    moments = {MEAN + "w": np.array([1, 2, 3], np.float32)}
    before, after = {"w": np.array([1.0, 2.0, 0.0])}, {"w": np.array([1.0, 9.0, 0.0])}
    found = forgotten(moments, {"w": np.array([True, True, True])}, before, after)
    assert found[MEAN + "w"].tolist() == [1, 0, 3]


def test_a_constant_change_is_followed_faster_with_momentum() -> None:
    params, moments = one(0), dict[str, Any]()
    for _ in range(50):
        params, moments = stepped(settings("momentum"), params, {"w": params["w"] + np.float32(1)}, {}, moments)
    # each round's step tends to 1 / (1 − β)
    assert moments[MEAN + "w"] == pytest.approx(10, rel=0.01)
