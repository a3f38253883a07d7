"""Golden values of HESSO, worked by hand: which channels are chosen by one look and by several, and how they fade."""

from typing import Any

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.methods.learned.hesso import hesso
from fedprune.types import Method, Model, Params

SHAPES = {"a.weight": (4, 1), "b.weight": (1, 4)}
PLACES = np.arange(4)[:, None]
MEMBERS = Member("a.weight", (4, 1), 0, PLACES, True), Member("b.weight", (1, 4), 1, PLACES, False)
PARAMS: Params = {"a.weight": np.array([[1], [2], [3], [4]], np.float32), "b.weight": np.ones((1, 4), np.float32)}


def begun(**given: Any) -> tuple[Method, Model]:
    method = hesso({}, channels=lambda: ((Group("a", 4, MEMBERS),), SHAPES), **given)
    return method, method.start(PARAMS)


def grads(*values: float) -> Params:
    return {"a.weight": np.array(values)[:, None], "examples": np.asarray(9)}


def free(model: Model) -> list[int]:
    return (model.memory["push/a"] == 0).astype(int).tolist()


def test_one_look_takes_the_least_and_several_take_what_does_not_matter_on_the_way() -> None:
    method, model = begun(cycles=0)
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args) == ("gradients", ["a.weight"])
    # without a gradient (2 · x / 2.5 + 1) / 5
    found: dict[str, Any] = {"grad": grads(0, 0, 0, 0)}
    assert not method.asks(model, 0, found).keys() - found.keys()
    assert free(method.act(model, found, 0)) == [0, 0, 1, 1]
    assert free(method.act(model, {"grad": {}}, 0)) == [1, 1, 1, 1]

    method, model = begun()
    looks = method.asks(model, 0, found)
    assert [ask.args.scales["a.weight"].ravel().tolist() for ask in looks.values()] == [
        [nearer, nearer, 1, 1] for nearer in (0.75, 0.5, 0.25)
    ]
    # on its way to 0 the first would be missed: (2 · 0.4 + 2 / 1.25 + 4 / 1 + 16 / 4) / 5 = 2.08 a look, the others
    # 0.48, 0.64 and 0.8; with the first look's 0.36, 0.52, 0.68 and 0.84 that is 6.6, 1.96, 2.6 and 3.24
    found |= dict.fromkeys(looks, grads(-4, 0, 0, 0))
    more = {name: ask for name, ask in method.asks(model, 0, found).items() if name not in found}
    assert next(ask.args.scales["a.weight"].ravel().tolist() for ask in more.values()) == [1, 1, 0.75, 1]
    assert free(method.act(model, {**found, **{name: {} for name in more}}, 0)) == [1, 0, 0, 1]  # nobody said more
    found |= dict.fromkeys(more, grads(0, 0, 0, 0))  # 7.68, 3.52, 4.64 and 5.76: the same two, and both are tried
    assert not method.asks(model, 0, found).keys() - found.keys()
    assert free(method.act(model, found, 0)) == [1, 0, 0, 1]


def test_no_more_cycles_than_are_allowed() -> None:
    method, model = begun(cycles=1)
    found: dict[str, Any] = {"grad": grads(0, 0, 0, 0)}
    found |= dict.fromkeys(method.asks(model, 0, found), grads(-4, 0, 0, 0)) | found
    assert not method.asks(model, 0, found).keys() - found.keys()
    assert free(method.act(model, found, 0)) == [1, 0, 0, 1]


def test_the_chosen_fade_along_a_line_and_are_gone() -> None:
    method, model = begun(cycles=0, begin=1, stop=4)
    assert not method.asks(model, 0, {})
    assert method.act(model, {}, 0) is model
    model = method.act(model, {"grad": grads(0, 0, 0, 0)}, 1)
    sizes = [model.params["a.weight"].ravel().tolist()]
    for round in (2, 3, 4):
        assert model.parts["narrow"].masks["a.weight"].all()
        assert not method.asks(model, round, {})
        model = method.act(model, {}, round)
        sizes.append(model.params["a.weight"].ravel().tolist())
    assert sizes == [pytest.approx([left, 2 * left, 3, 4]) for left in (1, 2 / 3, 1 / 3, 0)]
    masks = model.parts["narrow"].masks
    assert masks["a.weight"].ravel().tolist() == masks["b.weight"].ravel().tolist() == [False, False, True, True]
    assert method.act(model, {}, 5) is model


def test_periods_take_equal_shares_and_later_ones_of_what_is_left() -> None:
    method, model = begun(cycles=0, stop=4, periods=2)
    model = method.act(model, {"grad": grads(0, 0, 0, 0)}, 0)
    assert free(model) == [0, 1, 1, 1]
    model = method.act(model, {}, 1)
    assert method.asks(model, 2, {})
    model = method.act(model, {"grad": grads(0, 0, 9, 9)}, 2)
    assert free(model) == [0, 0, 1, 1]
    assert model.parts["narrow"].masks["a.weight"].ravel().tolist() == [False, True, True, True]
    # nobody answers, and the next round asks again, of the narrower model
    late = method.act(model._replace(memory={"push/a": np.array([1, 0, 0, 0])}), {"grad": {}}, 2)
    assert free(late) == [0, 1, 1, 1]
    assert free(method.act(late, {"grad": {"a.weight": np.zeros((3, 1))}}, 3)) == [0, 0, 1, 1]
    model = method.act(method.act(model, {}, 3), {}, 4)
    assert model.params["a.weight"].ravel().tolist() == [0, 0, 3, 4]
    assert model.parts["narrow"].masks["b.weight"].ravel().tolist() == [False, False, True, True]
