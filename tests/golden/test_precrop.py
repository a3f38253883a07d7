"""Golden values of widths from densities, worked by hand."""

import numpy as np
import pytest

from fedprune.graph.coupling import Group, Member
from fedprune.graph.cropping import cropped, matrices
from fedprune.methods.shrunk.precrop import precrop
from fedprune.types import Params

# a (8 of 1) is read by b (8 of 8), b by c (2 of 16: a flatten gave each channel two columns)
SHAPES = {"a": (8, 1), "a.bias": (8,), "b": (8, 8), "c": (2, 16)}


def group(name: str, reader: str, columns: int) -> Group:
    rows = Member(name, SHAPES[name], 0, np.arange(8)[:, None], True)
    return Group(name, 8, (rows, Member(reader, SHAPES[reader], 1, np.arange(8 * columns).reshape(8, columns), False)))


GROUPS = [group("a", "b", 1), group("b", "c", 2)]
LAYERS = {"b": (8, 8)}


def test_weights_of_a_narrower_net() -> None:
    assert matrices(GROUPS, SHAPES, {"a": 8, "b": 8}) == 8 + 64 + 32
    assert matrices(GROUPS, SHAPES, {"a": 4, "b": 3}) == 4 + 3 * 4 + 2 * 6


def test_a_layer_keeps_the_root_of_its_density_on_both_sides() -> None:
    # √(1/4) of 8 and 8; a and c have no density, and follow
    assert cropped(GROUPS, SHAPES, {"b": 0.25}, 4 + 16 + 16) == {"a": 4, "b": 4}
    # c can be cut on one side alone, so to 1/4 of it; with b's 1/2 of twice the weights: (1/2)^(2/3) (1/4)^(1/3) of 8
    # channels are 3.2 beside 4, which 4 + 12 + 12 weights are
    assert cropped(GROUPS, SHAPES, {"b": 0.25, "c": 0.25}, 28) == {"a": 4, "b": 3}


def test_shares_are_scaled_until_the_net_fits_and_what_is_left_is_used() -> None:
    # 5 and 5 take 50 of 55; a + ab + 4b = (a + 4)(b + 1) − 4 is 55, 54 or 53 of no a and b up to 8, and 52 of 4 and 6
    found = cropped(GROUPS, SHAPES, {"b": 0.25}, 55)
    assert matrices(GROUPS, SHAPES, found) == 52
    assert cropped(GROUPS, SHAPES, {"b": 0.25}, 10**6) == {"a": 8, "b": 8}
    assert cropped(GROUPS, SHAPES, {"b": 0.25}, 1) == {"a": 1, "b": 1}


def params() -> Params:
    return {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}


def test_before_training_a_net_is_cropped_once() -> None:
    method = precrop(LAYERS, density=0.25, iterations=2, channels=lambda: (GROUPS, SHAPES))
    model = method.start(params())
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args.densities) == ("flow", (0.5,))
    # 8 + 16 + 32 weights are there: 8 and 4 have just these, √(1/4) each 4 + 16 + 16
    flow = {"b": np.arange(64.0).reshape(8, 8)}
    cut = method.act(model, {"grad": flow}, 0)
    mask = cut.parts["narrow"].masks
    assert not cut.masks
    assert matrices(GROUPS, SHAPES, {"a": int(mask["a"].sum()), "b": int(mask["b"].any(1).sum())}) <= 56
    assert cut.params is model.params
    assert method.act(cut, {}, 3) is cut
    assert not method.asks(cut, 1, {})
    assert method.act(model, {"grad": {}}, 0).parts["narrow"].masks.keys() == mask.keys()
    with pytest.raises(ValueError, match="no channels"):
        precrop(LAYERS, density=0.5, channels=lambda: ([], SHAPES))
