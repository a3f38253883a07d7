"""SAP's claims: what a level prunes follows from layer and level, and comes to an end before a layer does."""

import itertools
from typing import Any

import numpy as np
import pytest
from central_runs import LAYERS, accuracy, initial, on, paired, run

from fedprune.methods import MethodError, build
from fedprune.pruning import masks
from fedprune.types import Model


def lost(models: list[Model], period: int) -> list[dict[str, float]]:
    """Of each level, the fraction that each layer loses."""
    kept = [masks.densities(model.masks) for model in models[::period]]
    return [{n: 1 - after[n] / before[n] for n in after} for before, after in itertools.pairwise(kept)]


def test_layers_and_levels_lose_what_they_can_spare() -> None:
    """12 levels of 2 epochs: 18, 19 and 18 % of layers at the first, 6, 5 and 4 % at the last; 31 % are left."""
    models = run(build({"name": "sap", "levels": 12, "period": 2}, LAYERS, 0), initial(0), 24)
    first, *_, last = levels = lost(models, 2)
    assert all(min(level.values()) > 0 for level in levels)
    assert max(last.values()) > 1.3 * min(last.values())
    assert np.mean([*last.values()]) < 0.5 * np.mean([*first.values()])
    assert all(np.array_equal(models[24].params[n], initial(0)[n] * mask) for n, mask in models[24].masks.items())


def test_near_collapse_nothing_goes() -> None:
    """A net of which only weights of nearly one size are left keeps them all, level after level."""
    rng = np.random.default_rng(0)
    few = {name: np.where(rng.random(shape) < 0.02, 1 + 0.1 * rng.random(shape), 0) for name, shape in LAYERS.items()}
    method = build({"name": "sap", "levels": 30, "period": 1}, LAYERS, 0)
    model = method.start({**initial(0), **few})._replace(masks={name: value > 0 for name, value in few.items()})
    for round in range(1, 31):
        after = method.act(model._replace(params={**model.params, **few}), {}, round)
        assert masks.equal(after.masks, model.masks)


def test_its_levels_are_worth_those_of_lth() -> None:
    """As far as LTH in as many levels, to 6 % of the weights, (p, q) = (1, 2): 0.2 ± 1.0 points apart, five seeds."""
    found, sizes = [], []
    for seed in range(5):
        table = {"name": "sap", "p": 1.0, "q": 2.0, "levels": 12, "period": 2}
        ours = run(build(table, LAYERS, 0), initial(seed), 24, seed)[-1]
        size = masks.density(ours.masks)
        theirs = build({"name": "lth", "density": size, "levels": 12, "period": 2}, LAYERS, 0)
        ticket = run(theirs, initial(seed), 24, seed)[-1]
        found.append(accuracy(on(ours, range(25, 29), seed)) - accuracy(on(ticket, range(25, 29), seed)))
        sizes.append(size)
    mean, half = paired(found)
    assert max(sizes) < 0.08
    assert mean + half > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"p": 2.0}, "p 2.0 is not between 0 and q, 1.0"),
        ({"eta": -1.0}, "eta -1.0 is below 0"),
        ({"beta": 1.0}, r"beta 1.0 is outside \[0, 1\)"),
        ({"scope": "x"}, "scope 'x' is not one of neuron, layer, global"),
        ({"levels": 0}, "levels 0 is below 1"),
    ],
)
def test_limits_that_are_none_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        build({"name": "sap", **given}, LAYERS, 0)
