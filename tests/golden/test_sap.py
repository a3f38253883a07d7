"""Golden values of the PQ index, of what it lets go, and of a level of SAP, each worked by hand."""

import numpy as np
import pytest

from fedprune.methods.tickets.sap import sap
from fedprune.pruning.compressible import Limits, pq_index, spare


@pytest.mark.parametrize(
    ("weights", "p", "q", "index"),
    [
        # one-hot: 1 − d^(1/q − 1/p)
        ([0.0, 7.0, 0.0, 0.0], 0.5, 1.0, 1 - 1 / 4),
        ([0.0, 7.0, 0.0, 0.0], 1.0, 2.0, 1 - 1 / 2),
        ([3.0, -3.0, 3.0], 1.0, 2.0, 0.0),
        # 1 − 4^(1/2 − 1) · (3 + 4) / 5
        ([3.0, 4.0, 0.0, 0.0], 1.0, 2.0, 1 - 0.7),
        # 1 − (√16 + √4)² / (2 · 20)
        ([16.0, -4.0], 0.5, 1.0, 1 - 36 / 40),
        ([0.0, 0.0], 0.5, 1.0, 0.0),
        ([], 0.5, 1.0, 0.0),
    ],
)
def test_the_pq_index(weights: list[float], p: float, q: float, index: float) -> None:
    for scale in (1.0, 1e-30, 1e30):
        assert pq_index(scale * np.array(weights), p, q) == pytest.approx(index)


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        # I = 1 − (3 + 7)² / (8 · 16) = 28/128, and as q/(q − p) = 2 and pq/(q − p) = 1, m/d = 1 − I: ⌊8 · 0.21875⌋
        (Limits(), 1),
        # 8 · 2 · 0.21875 = 3.5
        (Limits(gamma=2.0), 3),
        (Limits(gamma=9.0, beta=0.5), 4),
        # m/d = 0.78125 / 1.2² = 0.5425…: ⌊8 · 0.4574⌋
        (Limits(eta=0.2), 3),
        # ‖w‖₁² / (8 ‖w‖₂²) = 16² / (8 · 88), to the power pq/(q − p) = 2 of its root: ⌊8 · (1 − 0.3636)⌋
        (Limits(1.0, 2.0), 5),
    ],
)
def test_how_many_can_be_spared(limits: Limits, count: int) -> None:
    assert spare(np.array([9.0, 1, -1, 1, 1, -1, 1, 1]), limits) == count


def test_a_level_prunes_each_scope_by_its_own_index_and_goes_back_to_the_first_weights() -> None:
    first = {"a": np.full((2, 4), 5.0), "b": np.full((1, 4), 6.0)}
    trained = {"a": np.array([[9.0, 1.0, 1.0, 1.0], [4.0, 4.0, 4.0, 4.0]]), "b": np.array([[1.0, 9.0, 1.0, 1.0]])}
    layers = {name: value.shape for name, value in first.items()}

    def after(scope: str) -> dict[str, list[int]]:
        method = sap(layers, scope=scope, levels=1, period=2)
        model = method.start(first)._replace(params=trained)
        assert method.act(model, {}, 1) is model
        pruned = method.act(model, {}, 2)
        assert all(np.array_equal(value, first[n] * pruned.masks[n]) for n, value in pruned.params.items())
        return {name: mask.astype(int).ravel().tolist() for name, mask in pruned.masks.items()}

    # a row of 9 1 1 1 spares ⌊4 · 1/4⌋, one of equals nothing
    assert after("neuron") == {"a": [1, 1, 1, 0, 1, 1, 1, 1], "b": [1, 1, 1, 0]}
    # a: 1 − (3 + 3 + 8)² / (8 · 28) = 1/8 of 8
    assert after("layer") == {"a": [1, 1, 1, 0, 1, 1, 1, 1], "b": [1, 1, 1, 0]}
    # 1 − (6 + 8 + 6)² / (12 · 40) = 1/6 of 12, ties to the first
    assert after("global") == {"a": [1, 1, 1, 1, 1, 1, 1, 1], "b": [1, 1, 0, 0]}
