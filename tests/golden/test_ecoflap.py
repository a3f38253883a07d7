"""Golden values of ECoFLaP, worked by hand."""

from typing import Any

import numpy as np
import pytest

from fedprune.methods import MethodError, build
from fedprune.methods.static.ecoflap import ecoflap
from fedprune.types import Params

WEIGHTS: Params = {"a": np.array([[4.0, -3], [2, 1]]), "b": np.array([[1.0, 2, -3, 4, 5], [5, 4, 3, 2, -1]])}
LAYERS = {name: value.shape for name, value in WEIGHTS.items()}
ALIKE: dict[str, Any] = {
    f"{name}/{what}": value
    for name, width in (("a", 2), ("b", 5))
    for what, value in (("mean", np.ones((1, width))), ("variance", np.zeros((1, width))), ("positions", np.asarray(3)))
}
FOUND = {
    "inputs": {**ALIKE, "examples": np.asarray(3)},
    "slopes": {"slopes": np.array([[0.5, -1.0], [0.5, 0.0]]), "examples": np.asarray(3)},
}


@pytest.mark.parametrize(
    ("given", "a", "b"),
    [
        # 0.75 · 10 and 0.25 · 30 are alike: 0.4 of 6/14 of 4 and 10, and half of the other 3.6 each: 2.49 and 3.51
        ({"floor": 0.4}, [[1, 0], [1, 0]], [[0, 0, 0, 1, 1], [1, 0, 0, 0, 0]]),
        # times 4 and 10 weights, 3 to 2.5, without a floor: 3.27 and 2.73
        ({"floor": 0.0, "magnitude": False}, [[1, 1], [1, 0]], [[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]),
        # all alike: 1.71 and 4.29
        ({"floor": 1.0}, [[1, 0], [0, 0]], [[0, 0, 0, 1, 1], [1, 1, 0, 0, 0]]),
    ],
)
def test_layers_share_by_slopes_and_outputs_keep_what_comes_through(given: Any, a: Any, b: Any) -> None:
    method = ecoflap(LAYERS, density=6 / 14, probes=2, epsilon=0.01, seed=7, **given)
    model = method.start(WEIGHTS)
    asked = method.asks(model, 0, {})
    assert {name: ask.kind for name, ask in asked.items()} == {"inputs": "input_moments", "slopes": "probes"}
    assert asked["slopes"].args == (("a", "b"), 0.01, 2, 7, 128)
    after = method.act(model, FOUND, 0)
    assert {name: mask.astype(int).tolist() for name, mask in after.masks.items()} == {"a": a, "b": b}
    assert not after.params["a"][~after.masks["a"]].any()
    assert method.act(model, {**FOUND, "slopes": {}}, 0) is model


@pytest.mark.parametrize("key", ["epsilon", "probes", "examples"])
def test_numbers_below_1_are_refused(key: str) -> None:
    with pytest.raises(MethodError, match=r"epsilon .* is not above 0, or probes .* or examples .* below 1"):
        build({"name": "ecoflap", "density": 0.5, key: 0 if key != "epsilon" else 0.0}, LAYERS, 0)
    with pytest.raises(MethodError, match=r"floor 1\.5 is outside \[0, 1\]"):
        build({"name": "ecoflap", "density": 0.5, "floor": 1.5}, LAYERS, 0)
