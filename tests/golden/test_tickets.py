"""Golden values of pruning by levels, of going back, and of fitting a layer anew, each worked by hand."""

import numpy as np
import pytest

from fedprune.graph.coupling import Member
from fedprune.methods.tickets.imp import imp
from fedprune.methods.tickets.lth import lth
from fedprune.pruning import obs
from fedprune.pruning.allocation import half_as_fast
from fedprune.types import Model

ONES = {"body": np.ones(10), "head": np.ones(10)}


@pytest.mark.parametrize(
    ("level", "density", "kept"),
    [
        # x + (1 + x) / 2 = 2 · 0.7
        (1, 0.7, {"body": 0.6, "head": 0.8}),
        # 0.5² + 0.75² = 2 · 0.40625
        (2, 0.40625, {"body": 0.25, "head": 0.5625}),
        (3, 1.0, {"body": 1.0, "head": 1.0}),
        # everything else is gone: 0² + 0.5² = 2 · 0.125
        (2, 0.125, {"body": 0.0, "head": 0.25}),
    ],
)
def test_a_slow_layer_loses_half_the_fraction(level: int, density: float, kept: dict[str, float]) -> None:
    assert half_as_fast(["head"], level)(ONES, density) == pytest.approx(kept, abs=1e-9)


def test_layers_of_other_sizes_meet_the_total() -> None:
    # 30 x + 10 (1 + x) / 2 = 35 x + 5 = 40 · 0.65
    found = half_as_fast(["head"], 1)({"body": np.ones(30), "head": np.ones(10)}, 0.65)
    assert found == pytest.approx({"body": 0.6, "head": 0.8})
    assert half_as_fast([], 2)(ONES, 0.3) == pytest.approx({"body": 0.3, "head": 0.3})


def test_where_slow_layers_would_keep_more_than_there_is_all_share_alike() -> None:
    # 0.5² · 10 of the head alone are more than 0.1 · 20
    assert half_as_fast(["head"], 2)(ONES, 0.1) == {"body": 0.1, "head": 0.1}


# a layer of two outputs and three inputs

WEIGHT = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]], np.float32)
GRAM = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
# its inverse: [[2, -1, 0], [-1, 2, 0], [0, 0, 3/4]] / 3; outputs' squares: 14 + 36 and 2 + 4


def test_damping_is_a_part_of_the_mean_square() -> None:
    assert np.array_equal(obs.damped(np.diag([1.0, 3.0]), 0.5), np.diag([2.0, 4.0]))
    assert np.array_equal(obs.damped(np.zeros((2, 2))), np.eye(2))


def test_what_outputs_lose_without_an_input() -> None:
    # Σ w² / [H⁻¹]_qq: (1 + 0) / (2/3), (4 + 1) / (2/3), (9 + 1) / (1/4), of 56
    single = obs.losses(obs.Reader(WEIGHT, GRAM, np.array([[0], [1], [2]])))
    np.testing.assert_allclose(single, np.array([1.5, 7.5, 40.0]) / 56)
    # both of 0 and 1, which nothing can make up for: all that they give, 14 and 2
    pair = obs.losses(obs.Reader(WEIGHT, GRAM, np.array([[0, 1]])))
    np.testing.assert_allclose(pair, [16 / 56])


def test_others_make_up_for_a_removed_input() -> None:
    # input 0 is half of input 1 as far as that can say: 2 + 1 · 1/2 = 2.5
    fitted = obs.refitted(WEIGHT, GRAM, np.array([False, True, True]))
    assert fitted.tolist() == [[0.0, 2.5, 3.0], [0.0, 1.0, 1.0]]
    assert fitted.dtype == np.float32
    lost = fitted.astype(float) - WEIGHT
    # the loss that was predicted
    assert np.trace(lost @ GRAM @ lost.T) == pytest.approx(1.5)
    assert obs.refitted(WEIGHT, GRAM, np.ones(3, bool)) == pytest.approx(WEIGHT)


def test_units_go_one_after_the_other() -> None:
    reader = obs.Reader(WEIGHT, GRAM, np.array([[0], [1], [2]]))
    # input 0 is the cheapest, by the losses above; then 1 weighs (2.5² + 1²) · 2 = 14.5 and 2 weighs 10 · 4
    assert [obs.best_units([reader], count).tolist() for count in (3, 2, 1)] == [
        [True, True, True],
        [False, True, True],
        [False, False, True],
    ]
    # a second layer of one output that reads 0 alone, all of whose energy goes with it
    other = obs.Reader(np.array([[9.0, 0.0, 0.0]]), np.eye(3), np.array([[0], [1], [2]]))
    assert obs.best_units([reader, other], 2).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="no layer reads these units"):
        obs.best_units([], 1)


def test_columns_of_channels() -> None:
    places = np.array([[0], [2]])
    assert Member("w", (5, 3, 1, 2), 1, places, produces=False).columns.tolist() == [[0, 1], [4, 5]]
    flattened = np.array([[0, 1], [2, 3]])
    assert Member("w", (5, 4), 1, flattened, produces=False).columns.tolist() == [[0, 1], [2, 3]]


# two levels of one layer and its output layer

FIRST = {"a": np.array([[5.0, -6.0], [7.0, 8.0]]), "b": np.array([[1.0, 2.0]]), "bias": np.array([3.0])}
LAYERS = {"a": (2, 2), "b": (1, 2)}


def after(model: Model, **params: list[list[float]]) -> Model:
    return model._replace(params={**model.params, **{name: np.array(value) for name, value in params.items()}})


def test_a_ticket_goes_back_to_the_weights_it_began_with() -> None:
    # kept: 6 · 0.5 = 3 = 4 x + 2 (1 + x) / 2 at level 1: x = 0.4 of a, 0.7 of b: one of each
    method = lth(LAYERS, density=0.5, levels=1, period=2)
    model = method.start(FIRST)
    assert method.act(model, {}, 0) is model
    trained = after(model, a=[[1.0, -9.0], [2.0, 3.0]], b=[[4.0, -5.0]], bias=[0.0])
    assert method.act(trained, {}, 1) is trained
    ticket = method.act(trained, {}, 2)
    assert {name: value.tolist() for name, value in ticket.params.items()} == {
        "a": [[0.0, -6.0], [0.0, 0.0]],
        "b": [[0.0, 2.0]],
        "bias": [3.0],
    }
    assert method.act(ticket, {}, 4) is ticket


def test_rewinding_goes_back_to_a_later_round_and_ranks_all_layers_together() -> None:
    method = imp(LAYERS, density=0.25, rewind=2, levels=2, period=3)
    model = method.act(method.start(FIRST), {}, 1)
    assert not model.memory
    early = method.act(after(model, a=[[1.0, 2.0], [3.0, 4.0]], b=[[5.0, 6.0]]), {}, 2)
    assert set(early.memory) == {"first/a", "first/b", "first/bias"}
    # level 1 keeps √0.25 of 6: 3
    one = method.act(after(early, a=[[-9.0, 1.0], [1.5, 8.0]], b=[[7.0, 0.5]]), {}, 5)
    assert {name: one.params[name].tolist() for name in LAYERS} == {"a": [[1.0, 0.0], [0.0, 4.0]], "b": [[5.0, 0.0]]}
    # level 2 keeps ⌊0.25 · 6⌋: 1
    two = method.act(after(one, a=[[1.0, 0.0], [0.0, -2.0]], b=[[3.0, 0.0]]), {}, 8)
    assert {name: two.params[name].tolist() for name in LAYERS} == {"a": [[0.0, 0.0], [0.0, 0.0]], "b": [[5.0, 0.0]]}
