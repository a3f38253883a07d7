"""Golden values of methods that score weights by what their layers read, worked by hand: Wanda, GBLM-Pruner."""

from typing import Any

import numpy as np
import pytest

from fedprune.methods import MethodError, build
from fedprune.methods.static.gblm_pruner import gblm_pruner
from fedprune.methods.static.wanda import wanda
from fedprune.types import Masks, Params

WEIGHTS: Params = {"w": np.array([[4.0, -3, 2, 1], [1, 1, -1, 8]]), "d": np.array([[[2.0, 1]], [[1, -3]]])}
LAYERS = {name: value.shape for name, value in WEIGHTS.items()}
# two examples; squares of w's inputs are 1, 4, 9 and 16 in the mean; d is depthwise, of four positions an example, and
# its channels' are 1 and 4, or 9 and 0
INPUTS: dict[str, Any] = {
    "w/mean": np.array([[1.0, 0, 3, 0]]), "w/variance": np.array([[0.0, 4, 0, 16]]), "w/positions": np.asarray(2),
    "d/mean": np.array([[[0.0, 2]], [[3, 0]]]), "d/variance": np.array([[[1.0, 0]], [[0, 0]]]),
    "d/positions": np.asarray(8), "examples": np.asarray(2),
}  # fmt: skip


def kept(masks: Masks) -> dict[str, list[list[int]]]:
    return {name: mask.astype(int).reshape(2, -1).tolist() for name, mask in masks.items()}


def test_wanda_keeps_of_each_output_what_most_comes_through() -> None:
    method = wanda(LAYERS, density=0.5)
    model = method.start(WEIGHTS)
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args) == ("input_moments", ("w", "d"))
    after = method.act(model, {"inputs": INPUTS}, 0)
    # 4, 6, 6, 4 and 1, 2, 3, 32; of four positions an example 2 · (2, 2) and 2 · (3, 0), and of equal ones the first
    assert kept(after.masks) == {"w": [[0, 1, 1, 0], [0, 0, 1, 1]], "d": [[1, 0], [1, 0]]}
    assert after.params["w"].tolist() == [[0, -3, 2, 0], [0, 0, -1, 8]]
    assert not method.asks(after, 1, {})
    assert method.act(after, {}, 1) is after


def test_what_a_density_leaves_over_goes_to_the_best_of_all_outputs() -> None:
    method = wanda(LAYERS, density=0.625)
    after = method.act(method.start(WEIGHTS), {"inputs": INPUTS}, 0)
    # five of eight: two an output, and of 4 and 2, the next of each, the 4; two of four
    assert kept(after.masks) == {"w": [[1, 1, 1, 0], [0, 0, 1, 1]], "d": [[1, 0], [1, 0]]}


def test_of_every_two_inputs_one() -> None:
    method = wanda({"w": (2, 4)}, density=0.5, of=2)
    after = method.act(method.start({"w": WEIGHTS["w"]}), {"inputs": INPUTS}, 0)
    assert kept(after.masks) == {"w": [[0, 1, 1, 0], [0, 1, 0, 1]]}
    with pytest.raises(MethodError, match=r"density 0\.3 of 4 is no N:M"):
        build({"name": "wanda", "density": 0.3, "of": 4}, LAYERS, 0)


def test_gblm_adds_how_far_single_examples_pull() -> None:
    method = gblm_pruner(LAYERS, density=0.5, alpha=10.0)
    model = method.start(WEIGHTS)
    asked = method.asks(model, 0, {})
    assert {name: ask.kind for name, ask in asked.items()} == {"inputs": "input_moments", "slopes": "gradient_squares"}
    assert (asked["slopes"].args.layers, asked["slopes"].args.examples) == (("w", "d"), 128)
    slopes = {"w": np.array([[0.04, 0, 0, 0.25], [0, 0, 0, 0]]), "d": np.zeros((2, 1, 2)), "examples": np.asarray(2)}
    after = method.act(model, {"inputs": INPUTS, "slopes": slopes}, 0)
    # 4 + 4 · 10 · 0.2 = 12, 6, 6 and 4 + 10 · 0.5 = 9
    assert kept(after.masks) == {"w": [[1, 0, 0, 1], [0, 0, 1, 1]], "d": [[1, 0], [1, 0]]}
    assert method.act(model, {"inputs": INPUTS, "slopes": {}}, 0) is model
    for key, value in (("alpha", -1.0), ("examples", 0)):
        with pytest.raises(MethodError, match=r"is below 0, or examples .* below 1"):
            build({"name": "gblm_pruner", "density": 0.5, key: value}, LAYERS, 0)
