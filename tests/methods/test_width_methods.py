"""HeteroFL, FjORD and FedRolex: one mechanism, told apart by where the kept channels begin; worked by hand."""

import itertools
from typing import Any

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.methods import MethodError, Shapes, build
from fedprune.pruning import masks
from fedprune.types import Holder, Masks, Method, Model, Params

SHAPES = {"a.weight": (5, 1, 3, 3), "a.bias": (5,), "bn.running_var": (5,), "b.weight": (2, 10), "b.bias": (2,)}
LAYERS = {name: SHAPES[name] for name in ("a.weight", "b.weight")}


def channels() -> tuple[list[Group], Shapes]:
    """Five channels, of which a flatten makes two columns each."""
    rows = np.arange(5)[:, None]
    produced = [Member(name, SHAPES[name], 0, rows, True) for name in ("a.weight", "a.bias", "bn.running_var")]
    columns = Member("b.weight", (2, 10), 1, np.arange(10).reshape(5, 2), False)
    return [Group("a", 5, (*produced, columns))], SHAPES


def built(name: str, width: float) -> Method:
    return build({"name": name, "width": width}, LAYERS, 0, channels=channels)


def params() -> Params:
    return {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}


def held(method: Method, round: int = 0) -> Masks:
    """Masks of what a device trains in a round; the server keeps every weight."""
    model = method.start(params())
    assert not model.masks
    assert list(model.parts) == ["narrow"]
    assert list(model.parts["narrow"].params) == ["bn.running_var"]
    return method.part(model, Holder(0, "narrow", round)).masks


def kept(found: Masks) -> list[int]:
    """The channels that masks keep, the same wherever they run through."""
    alive = found["a.bias"]
    assert list(found) == ["a.weight", "a.bias", "bn.running_var", "b.weight"]
    assert np.array_equal(found["a.weight"], np.broadcast_to(alive[:, None, None, None], (5, 1, 3, 3)))
    assert np.array_equal(found["bn.running_var"], alive)
    assert np.array_equal(found["b.weight"], np.broadcast_to(np.repeat(alive, 2), (2, 10)))
    return [int(channel) for channel in np.flatnonzero(alive)]


@pytest.mark.parametrize("name", ["heterofl", "fjord"])
@pytest.mark.parametrize(("width", "count"), [(1, 5), (0.6, 3), (0.5, 3), (0.4, 2), (0.2, 1), (0.0625, 1)])
def test_a_width_keeps_the_first_channels_for_good(name: str, width: float, count: int) -> None:
    method = built(name, width)
    assert [kept(held(method, round)) for round in (0, 1, 7)] == [list(range(count))] * 3
    model = method.start(params())
    assert method.act(model, {}, 3) is model
    assert not method.asks(model, 0, {})


def test_a_window_rolls_on_by_one_a_round_and_wraps_around() -> None:
    method = built("fedrolex", 0.4)
    found = [kept(held(method, round)) for round in range(7)]
    assert found == [[0, 1], [0, 1], [1, 2], [2, 3], [3, 4], [0, 4], [0, 1]]


def test_over_as_many_rounds_as_channels_every_channel_is_trained_as_often() -> None:
    method = built("fedrolex", 0.6)
    assert sum(held(method, round)["a.bias"].astype(int) for round in range(1, 6)).tolist() == [3] * 5


@pytest.mark.parametrize("round", [0, 3, 4, 17])
def test_windows_of_tiers_nest_in_every_round(round: int) -> None:
    found = [held(built("fedrolex", width), round) for width in (0.2, 0.5, 0.8, 1)]
    assert all(masks.nested(small, large) for small, large in itertools.pairwise(found))


def test_what_the_rooms_above_are_told() -> None:
    names = ("heterofl", "fjord", "fedrolex")
    assert [bool(built(name, 0.5).start(params()).parts) for name in names] == [True] * 3
    assert [built(name, 0.5).local.turns is not None for name in names] == [False, True, False]
    dense = build({"name": "fedavg"}, LAYERS, 0)
    assert not dense.start(params()).parts
    assert dense.local.turns is None


def test_a_device_of_several_widths_draws_each_as_often() -> None:
    turns = built("fjord", 0.5).local.turns
    assert turns is not None
    drawn = list(itertools.islice(turns(2, np.random.default_rng(0)), 3000))
    assert all(abs(drawn.count(width) - 1000) < 100 for width in range(3))


def test_a_model_without_channels_to_follow_has_no_width() -> None:
    with pytest.raises(MethodError, match=r"^method: the model has no channels that can be followed"):
        build({"name": "heterofl", "width": 0.5}, LAYERS, 0, channels=lambda: ([], SHAPES))


def optional(layers: Shapes, *, channels: Any = None) -> Method:
    """A method of one's own that can do without."""
    return Method(lambda params: Model(params, memory={"given": np.array(channels is not None)}))


def test_a_method_of_ones_own_may_do_without_channels() -> None:
    table = {"name": f"{__name__}:optional"}
    assert not build(table, LAYERS, 0).start({}).memory["given"]
    assert build(table, LAYERS, 0, channels=channels).start({}).memory["given"]
