"""What the server prunes while it pretrains, worked by hand."""

import numpy as np

from fedprune.methods.dynamic.fedtiny_plus import fedtiny_plus
from fedprune.types import Masks, Params

LAYERS = {"a": (10, 10), "b": (20, 10)}
FIRST: Params = {
    "a": np.arange(1.0, 101).reshape(10, 10),
    "b": -np.arange(1.0, 201).reshape(20, 10),
    "bias": np.zeros(1),
}


def kept(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def test_a_cubic_over_a_share_of_the_epochs() -> None:
    method = fedtiny_plus(LAYERS, density=0.2, settled=0.5)
    # 0.2 + 0.8 (1 − e/4)³ of 100 and of 200 weights, over the first four of eight epochs
    densities = [1.0, 0.5375, 0.3, 0.2125, 0.2, 0.2, 0.2, 0.2]
    found = [kept(method.pretraining(FIRST, epoch, 8)) for epoch in range(8)]
    assert found == [{"a": int(100 * d), "b": int(200 * d)} for d in densities]
    last = method.pretraining(FIRST, 7, 8)
    assert (FIRST["a"][last["a"]] > 80).all()
    assert (FIRST["b"][last["b"]] < -160).all()
    # seven tenths of ten epochs: before the seventh nothing is settled, from the eighth on all is
    counts = [kept(fedtiny_plus(LAYERS, density=0.2).pretraining(FIRST, epoch, 10))["a"] for epoch in range(10)]
    assert counts == [100, 70, 49, 34, 26, 21, 20, 20, 20, 20]


def test_it_begins_with_the_largest_and_then_swaps_as_fedtiny() -> None:
    method = fedtiny_plus(LAYERS, density=0.2, period=2, stop=4)
    model = method.start(FIRST)
    assert kept(model.masks) == {"a": 20, "b": 40}
    assert model.params["a"][-2:].tolist() == FIRST["a"][-2:].tolist()
    assert not model.params["a"][:-2].any()
    assert not method.asks(model, 0, {})
    assert method.act(model, {}, 0) is model
    (ask,) = method.asks(model, 2, {}).values()
    # the last block first: 0.15 (1 + cos(π 2/4)) of its 40 kept weights
    assert (ask.kind, dict(ask.args)) == ("top_gradients", {"b": 6})
