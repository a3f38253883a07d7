"""BiP's claim: a better mask than at once, and as good as tickets' at far less training."""

import functools

import pytest
from central_runs import LAYERS, accuracy, digits, initial, lenet, load, on, paired, run

from fedprune.data.loading import in_order
from fedprune.methods import MethodError, build
from fedprune.pruning import masks
from fedprune.training.gradients import gradients
from fedprune.types import Model, Params

SEEDS = range(10, 20)
"""Others than those by which the default ``beta`` was chosen."""
ROUNDS, STOP = 12, 8


@functools.cache
def trained(seed: int) -> Params:
    return run(build({"name": "fedavg"}, LAYERS, 0), initial(seed), 6, seed)[-1].params


def bilevel(density: float, seed: int) -> Model:
    """With what one device that holds all examples would answer."""
    method = build({"name": "bip", "density": density, "stop": STOP}, LAYERS, 0)
    model, net = method.start(trained(seed)), lenet()
    dataset, train, _ = digits()
    for round in range(1, ROUNDS + 1):
        model = on(model, range(round, round + 1), seed)
        found = {}
        for name in method.asks(model, round, {}):
            load(net, model.params)
            found[name] = gradients(net, in_order(dataset, train, 500), tuple(LAYERS))
        model = method.act(model, found, round)
        assert masks.density(model.masks) == pytest.approx(density, abs=0.0002)
    return model


def at_once(density: float, seed: int) -> Model:
    return run(build({"name": "magnitude", "density": density}, LAYERS, 0), trained(seed), ROUNDS, seed)[-1]


def test_it_beats_one_shot_where_few_weights_are_left() -> None:
    """At 2 %, ten seeds: 79.3 and 73.9 %, paired 5.4 ± 3.1 points."""
    mean, half = paired([accuracy(bilevel(0.02, seed)) - accuracy(at_once(0.02, seed)) for seed in SEEDS])
    assert mean > half


def test_at_90_percent_it_is_as_good_as_tickets_and_as_one_shot_is() -> None:
    """Of 12 epochs and 8 gradients 96.1 %, IMP of 36 epochs 96.3 %, at once 95.9 %: no difference is shown.

    Where fewer weights are left tickets are better: by 1 point at 5 %, 4 at 3 % and 11 at 2 %, of 45 to 60 epochs.
    """
    imp = build({"name": "imp", "density": 0.1, "rewind": 0, "levels": 10, "period": 3}, LAYERS, 0)
    found = [
        [accuracy(each) for each in (bilevel(0.1, s), run(imp, trained(s), 36, s)[-1], at_once(0.1, s))]
        for s in SEEDS[:3]
    ]
    for other in (1, 2):
        mean, half = paired([row[0] - row[other] for row in found])
        assert mean + half > 0
        assert abs(mean) < 0.01


@pytest.mark.parametrize("given", [{"beta": 0.0}, {"gamma": -1.0}, {"stop": 0}])
def test_a_number_out_of_range_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(MethodError, match=r"^method: \w+ -?[\d.]+ is (not above 0|below 1)$"):
        build({"name": "bip", "density": 0.5, **given}, LAYERS, 0)
