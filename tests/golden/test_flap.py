"""Golden values of FLAP, worked by hand."""

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.methods import MethodError, build
from fedprune.methods.recovered.flap import flap
from fedprune.types import Params, Tensor

# a's three channels are read by b, which has a batch norm and no bias, and b's two by c
PARAMS: Params = {
    "a.weight": np.ones((3, 2), np.float32), "a.bias": np.ones(3, np.float32),
    "b.weight": np.array([[1, 2, 3], [1, 0, -1]], np.float32), "n.running_mean": np.array([5, 6], np.float32),
    "c.weight": np.array([[2, 1], [0, 4]], np.float32), "c.bias": np.array([1, 2], np.float32),
}  # fmt: skip
SHAPES = {name: value.shape for name, value in PARAMS.items()}


def member(name: str, dim: int, produces: bool) -> Member:
    return Member(name, SHAPES[name], dim, np.arange(SHAPES[name][dim])[:, None], produces)


GROUPS = (
    Group("a", 3, (member("a.weight", 0, True), member("a.bias", 0, True), member("b.weight", 1, False))),
    Group(
        "b", 2, (member("b.weight", 0, True), member("n.running_mean", 0, True), member("c.weight", 1, False)),
        {"b": "n"},
    ),
)  # fmt: skip
FOUND = {
    "b.weight/mean": np.array([[7.0, 2, 4]]), "b.weight/variance": np.array([[4.0, 1, 0]]),
    "c.weight/mean": np.array([[3.0, -1]]), "c.weight/variance": np.array([[1.0, 2]]),
}  # fmt: skip


def after(keep: float, found: dict[str, Tensor], compensate: bool = True) -> tuple[dict[str, list[int]], Params]:
    method = flap({}, keep=keep, compensate=compensate, channels=lambda: (GROUPS, SHAPES))
    model = method.start(PARAMS)
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args) == ("input_moments", ["b.weight", "c.weight"])
    done = method.act(model, {"inputs": found}, 0)
    (part,) = done.parts.values()
    kept = {name: part.masks[name].astype(int).tolist() for name in ("a.bias", "n.running_mean")}
    assert method.act(done, {}, 1) is done
    return kept, {**done.params, **part.params}


def test_what_varies_least_goes_and_its_mean_stays() -> None:
    # a's: 4 · 2, 1 · 4, 0 · 10, standardised 1.22, 0, −1.22; b's: 1 · 4, 2 · 17, −1 and 1. Without a's last channel 12
    # weights are left of 16, without b's first as well 8
    kept, params = after(0.5, FOUND)
    assert kept == {"a.bias": [1, 1, 0], "n.running_mean": [0, 1]}
    # b's outputs lose 3 · 4 and −1 · 4, and c's 2 · 3 and 0
    assert params["n.running_mean"].tolist() == [5 - 12, 6 + 4]
    assert params["c.bias"].tolist() == [1 + 6, 2]
    assert params["a.bias"].tolist() == [1, 1, 1]
    assert params["b.weight"].tolist() == PARAMS["b.weight"].tolist()
    kept, params = after(0.74, FOUND)
    assert kept == {"a.bias": [1, 1, 0], "n.running_mean": [0, 1]}
    assert after(0.75, FOUND)[0] == {"a.bias": [1, 1, 0], "n.running_mean": [1, 1]}
    assert after(0.32, FOUND)[0] == {"a.bias": [1, 0, 0], "n.running_mean": [0, 1]}


def test_without_compensation_or_answers_nothing_moves() -> None:
    for kept, params in (after(0.5, FOUND, compensate=False), after(0.5, {})):
        assert sum(kept["a.bias"]) == 2 or sum(kept["n.running_mean"]) == 1
        assert all(np.array_equal(params[name], value) for name, value in PARAMS.items())
    # by place: 0, −1/3, −2/3 and 0, −1/2
    assert after(0.5, {})[0] == {"a.bias": [1, 1, 0], "n.running_mean": [1, 0]}


def test_what_has_no_channels_or_no_size_is_refused() -> None:
    with pytest.raises(MethodError, match=r"keep 0\.0 is outside \(0, 1\]"):
        build({"name": "flap", "keep": 0.0}, {}, 0, channels=lambda: (GROUPS, SHAPES))
    with pytest.raises(MethodError, match="no channels that can be followed"):
        build({"name": "flap"}, {}, 0, channels=lambda: ((), SHAPES))
