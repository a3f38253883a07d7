"""Golden values of SPA's ranking, worked by hand."""

from typing import Any

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.methods import MethodError, build
from fedprune.types import Masks, Params, Tensor

# a's three channels are read by b, and b's two by c
PARAMS: Params = {
    "a.weight": np.array([[3, -3], [1, 1], [2, 2]], np.float32), "a.bias": np.ones(3, np.float32),
    "b.weight": np.array([[1, 2, 3], [-1, 0, 2]], np.float32),
    "c.weight": np.array([[2, 1], [0, 4]], np.float32),
}  # fmt: skip
SHAPES = {name: value.shape for name, value in PARAMS.items()}


def member(name: str, dim: int, produces: bool) -> Member:
    return Member(name, SHAPES[name], dim, np.arange(SHAPES[name][dim])[:, None], produces)


GROUPS = (
    Group("a", 3, (member("a.weight", 0, True), member("a.bias", 0, True), member("b.weight", 1, False))),
    Group("b", 2, (member("b.weight", 0, True), member("c.weight", 1, False))),
)


def multiply_adds(target: str, kept: Masks) -> int:
    assert target == "macs"
    a, b = (int(kept[name].sum()) for name in ("a", "b"))
    return 2 * a + a * b + 2 * b


def after(found: dict[str, Tensor], **given: Any) -> list[list[int]]:
    """(a's, b's) channels that are kept."""
    method = build({"name": "spa", **given}, {}, 0, channels=lambda: (GROUPS, SHAPES), cost=multiply_adds)
    model = method.start(PARAMS)
    asked = [(ask.kind, ask.args) for ask in method.asks(model, 0, {}).values()]
    kinds = {"snip": "gradients", "wanda": "input_moments"}
    kind = kinds.get(given.get("criterion", ""))
    assert asked == ([(kind, ("a.weight", "b.weight"))] if kind else [])
    assert not method.asks(model, 1, {})
    done = method.act(model, {"inputs": found} if asked else {}, 0)
    assert done.params is PARAMS
    assert method.act(done, {}, 1) is done
    masks = done.parts["narrow"].masks
    return [masks["a.bias"].astype(int).tolist(), masks["b.weight"].any(1).astype(int).tolist()]


def test_channels_of_all_groups_are_ranked_and_what_is_left_goes_to_the_next_that_fit() -> None:
    # a's means of |θ| are 3, 1, 2, by their mean 1.5, 0.5, 1; b's are 2 and 1, so 1.33 and 0.67: a0 b0 a2 b1 a1. They
    # take 5, 8, 12 and 16 multiply-adds
    assert after({}, macs=16) == [[1, 1, 1], [1, 1]]
    assert after({}, macs=12) == [[1, 0, 1], [1, 1]]
    assert after({}, macs=9) == [[1, 0, 1], [1, 0]]
    # b1 does not fit into 11, but a1 does: 2 · 3 + 3 · 1 + 2 · 1
    assert after({}, macs=11) == [[1, 1, 1], [1, 0]]
    assert after({}, macs=5) == [[1, 0, 0], [1, 0]]
    assert after({}, macs=99) == [[1, 1, 1], [1, 1]]
    # 8 of 16 weights
    assert after({}) == after({}, keep=0.5) == [[1, 0, 1], [1, 0]]


def test_gradients_or_inputs_turn_the_order() -> None:
    grads = {"a.weight": np.array([[0, 0], [5, 5], [1, 1]]), "b.weight": np.array([[0, 0, 0], [1, 0, 1]])}
    # a's means of |θ g| are 0, 5, 2, b's 0 and 1: b1 is 2 times b's mean, a1 2.1 and a2 0.9 times a's
    assert after(grads, criterion="snip", macs=8) == [[0, 1, 1], [0, 1]]
    moments = {"examples": np.asarray(1.0)}
    for name, squares in (("a.weight", [1.0, 1.0]), ("b.weight", [100.0, 0.0, 0.0])):
        square, zeros = np.array([squares]), np.zeros((1, len(squares)))
        moments |= {f"{name}/mean": zeros, f"{name}/variance": square, f"{name}/positions": np.asarray(1)}
    # b reads nothing but a0: both of its channels score 10 / 3, and the first stays
    assert after(moments, criterion="wanda", macs=8) == [[1, 0, 1], [1, 0]]
    # nobody answers: by place, 0, −1/3, −2/3 and 0, −1/2
    for criterion in ("snip", "wanda"):
        assert after({}, criterion=criterion, macs=8) == [[1, 1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"macs": 4}, "macs 4 is less than the least net takes: 5, of one channel a group"),
        ({"macs": 4, "keep": 0.5}, "keep and macs are given; one budget is enough"),
        ({"flash_bytes": -1}, "flash_bytes -1 is below 0"),
        ({"keep": 0.01}, r"keep 0.01 is less than the least net takes: 0\.\d+, of one channel a group"),
        ({"keep": 1.5}, r"keep 1.5 is outside \(0, 1\]"),
        ({"criterion": "size"}, "criterion 'size' is not one of magnitude, snip, wanda"),
        ({"cost": 1}, "method.cost: unknown key"),
    ],
)
def test_what_cannot_be_met_is_said_in_a_line(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        after({}, **given)


def test_without_a_model_there_is_nothing_to_count() -> None:
    method = build({"name": "spa", "macs": 9}, {}, 0, channels=lambda: (GROUPS, SHAPES))
    with pytest.raises(ValueError, match="macs of the model cannot be counted here; give keep"):
        method.act(method.start(PARAMS), {}, 0)
    with pytest.raises(MethodError, match="no channels that can be followed"):
        build({"name": "spa"}, {}, 0, channels=lambda: ((), SHAPES))
