"""Golden rounds of a pool that is halved by training, worked by hand: FedTiny with a tournament."""

from typing import Any

import numpy as np

from fedprune.methods.dynamic.fedtiny_halving import fedtiny_halving
from fedprune.pruning.candidates import candidate_counts
from fedprune.types import Model, Params

LAYERS = {"a": (10, 10), "b": (20, 10)}
FIRST: Params = {
    "a": np.arange(1.0, 101).reshape(10, 10),
    "b": np.arange(1.0, 201).reshape(20, 10),
    "bias": np.zeros(1),
}


def told(loss: float) -> dict[str, Any]:
    return {"losses": {"loss": np.array([loss]), "examples": np.asarray(5)}}


def test_each_candidate_trains_in_turn_and_the_better_half_goes_on() -> None:
    method = fedtiny_halving(LAYERS, density=0.2, pool=4, trial=2, period=1, stop=2, seed=3)
    counts = candidate_counts(LAYERS, 0.2, 4, seed=3)
    model = method.act(method.start(FIRST), {}, 0)
    losses = {0: 2.0, 1: 0.5, 2: 1.0, 3: 3.0}
    # 0 1 2 3 for two rounds each, then the two best, the best of them first
    turns = [0, 0, 1, 1, 2, 2, 3, 3, 1, 1, 2, 2]
    for round, candidate in enumerate(turns, start=1):
        assert {name: int(mask.sum()) for name, mask in model.masks.items()} == counts[candidate]
        # it goes on from where its last trial ended
        assert model.params["bias"].tolist() == [turns[: round - 1].count(candidate)]
        model = model._replace(params={**model.params, "bias": model.params["bias"] + 1})
        asked = method.asks(model, round, {})
        assert [ask.kind for ask in asked.values()] == (["losses"] if round % 2 == 0 else [])
        model = method.act(model, told(losses[candidate] - (round > 8) * (candidate == 2)) if asked else {}, round)
    # in its second trial 2 came to 0, below 0.5
    assert {name: int(mask.sum()) for name, mask in model.masks.items()} == counts[2]
    assert model.params["bias"].tolist() == [4]
    assert not model.memory
    # and then FedTiny's swaps, whose first round is this one
    (ask,) = method.asks(model, 13, {}).values()
    assert (ask.kind, list(ask.args)) == ("top_gradients", ["b"])
    assert not method.asks(model, 16, {})


def test_where_nobody_says_a_loss_the_first_goes_on() -> None:
    method = fedtiny_halving(LAYERS, density=0.2, pool=2, trial=1)
    model: Model = method.start(FIRST)
    for round in (1, 2):
        model = method.act(model, {"losses": {}}, round)
    assert {name: int(mask.sum()) for name, mask in model.masks.items()} == candidate_counts(LAYERS, 0.2, 2, seed=0)[0]
