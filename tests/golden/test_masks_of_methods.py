"""Golden values of methods' masks, each worked by hand: SNIP, SynFlow, GMP, SET, RigL, GraNet."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedprune import measures, training
from fedprune.counter_rng import uniforms
from fedprune.measures.flow import Thinned
from fedprune.methods.dynamic.gmp import gmp
from fedprune.methods.dynamic.granet import granet
from fedprune.methods.dynamic.rigl import rigl
from fedprune.methods.dynamic.set import set as evolved
from fedprune.methods.static.snip import snip
from fedprune.methods.static.synflow import synflow
from fedprune.pruning import masks
from fedprune.types import Ask, Model, Params, Tensor


def kept(found: Any) -> dict[str, list[int]]:
    """Positions of what is kept, in C order."""
    return {name: np.flatnonzero(mask).tolist() for name, mask in found.items()}


def one(*positions: int, size: int = 8) -> Tensor:
    """A mask that keeps these."""
    return np.isin(np.arange(size), positions)


def test_snip_keeps_the_largest_products_of_all_layers_together() -> None:
    theta = {"a": np.array([1.0, -2.0, 3.0]), "b": np.array([0.5, 4.0])}
    grads = {"a": np.array([3.0, -1.0, 0.1]), "b": np.array([2.5, -0.5])}
    method = snip({"a": (3,), "b": (2,)}, density=0.6)
    model = method.start(theta)
    (ask,) = method.asks(model, 0, {}).values()
    assert (ask.kind, ask.args) == ("gradients", ("a", "b"))
    # |θ g| is 3, 2, 0.3 in a and 1.25, 2 in b
    after = method.act(model, {"grad": grads}, 0)
    assert kept(after.masks) == {"a": [0, 1], "b": [1]}
    assert after.params["a"].tolist() == [1.0, -2.0, 0.0]
    assert not method.asks(after, 1, {})
    assert method.act(after, {"grad": grads}, 1) is after


FIRST, SECOND = [[1.0, -2.0], [3.0, 5.0]], [[2.0, -1.0]]
"""Two inputs, two neurons, one output. Scores at first: 2·1, 2·2 and 1·3, 1·5, then 2·(1 + 2) and 1·(3 + 5)."""


def synflow_of(iterations: int) -> dict[str, list[int]]:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    theta: Params = {"0.weight": np.array(FIRST, np.float32), "1.weight": np.array(SECOND, np.float32)}

    def model(params: Params) -> nn.Module:
        with torch.no_grad():
            training.load_state(net, params)
        return net

    device: Any = SimpleNamespace(
        model=model,
        experiment=SimpleNamespace(seed=0),
        schema=SimpleNamespace(input_shape=(2,)),
        parts=SimpleNamespace(train=[0]),
    )
    method = synflow({name: value.shape for name, value in theta.items()}, density=1 / 3, iterations=iterations)
    begun = method.start(theta)
    (ask,) = method.asks(begun, 0, {}).values()
    kind = measures.find(ask.kind)
    answer = kind.measure(device, kind.request(begun, ask.args), 0)
    kind.check(answer, ask.args, begun)
    return kept(method.act(begun, {"grad": kind.merge([answer], ask.args)}, 0).masks)


def test_synflow_in_two_steps_keeps_a_path_where_one_step_empties_a_layer() -> None:
    # 2 of 6. At once: 6 and 8, and nothing leads to them.
    assert synflow_of(1) == {"0.weight": [], "1.weight": [0, 1]}
    # √(1/3) · 6 = 3.46: 8, 6 and 5 first. Then nothing flows through neuron 0, and 5 · 1 is on both sides of neuron 1.
    assert synflow_of(2) == {"0.weight": [3], "1.weight": [1]}
    assert synflow_of(100) == {"0.weight": [3], "1.weight": [1]}


def test_a_device_thins_along_the_schedule_but_for_its_last_step() -> None:
    asks = synflow({"a": (10,)}, density=0.0625, iterations=4).asks(Model({}, {}), 0, {})
    (ask,) = asks.values()
    assert ask == Ask("flow", Thinned(("a",), (0.5, 0.25, 0.125)), masks={})


def test_gmp_half_way_has_pruned_seven_eighths_of_what_it_prunes() -> None:
    method, weight = gmp({"w": (10, 10)}, density=0.2, stop=4), np.arange(100.0).reshape(10, 10)
    model = method.act(method.start({"w": weight}), {}, 0)
    assert masks.density(model.masks) == 1
    # 0.2 + 0.8 · (1 − 2/4)³ = 0.3
    assert np.array_equal(method.act(model, {}, 2).masks["w"], weight >= 70)
    # every other round, begun at 2 with 0.6: 0.2 + 0.4 · (1 − (4 − 2)/(6 − 2))³ = 0.25
    late = gmp({"w": (10, 10)}, density=0.2, initial=0.6, period=2, begin=2, stop=6)
    found = [masks.kept(late.act(model, {}, round).masks) for round in range(9)]
    assert found == [100, 100, 60, 100, 25, 100, 20, 100, 20]


def test_gmp_gives_every_layer_the_same_density() -> None:
    method = gmp({"small": (4,), "large": (4,)}, density=0.5, stop=1)
    model = method.start({"small": np.array([0.1, 0.2, 0.3, 0.4]), "large": np.array([9.0, 8.0, 7.0, 6.0])})
    assert kept(method.act(model, {}, 1).masks) == {"small": [2, 3], "large": [0, 1]}


def test_random_masks_begin_with_kernel_densities() -> None:
    # Σ dims / Π dims is 8/16 and 16/48; scaled to 16 of 64 in all: 1/3 of 16, and 2/9 of 48
    for method in (evolved, rigl):
        model = method({"a": (4, 4), "b": (4, 12)}, density=0.25, seed=3).start(
            {"a": np.ones((4, 4)), "b": np.ones((4, 12))}
        )
        assert {name: int(mask.sum()) for name, mask in model.masks.items()} == {"a": 5, "b": 10}
        largest = np.argsort(uniforms(3, "a", 16))[-5:]
        assert kept(model.masks)["a"] == sorted(largest.tolist())
        assert model.params["a"].sum() == 5


THETA = np.array([4.0, -0.1, 2.0, 0.3, 0.0, 0.0, 0.0, 0.0])


def test_set_drops_the_smallest_and_grows_at_random() -> None:
    method = evolved({"w": (8,)}, density=0.5, fraction=0.5, stop=3, seed=5)
    model = Model({"w": THETA}, {"w": one(0, 1, 2, 3)})
    assert not method.asks(model, 2, {})
    after = method.act(model, {}, 2)
    # noise of seed 5 + round 2
    grown = 4 + np.argsort(uniforms(7, "w", 8)[4:])[-2:]
    assert kept(after.masks)["w"] == [0, 2, *sorted(grown.tolist())]
    assert after.params["w"].tolist() == [4.0, 0, 2.0, 0, 0, 0, 0, 0]
    assert method.act(model, {}, 4) is model or masks.equal(method.act(model, {}, 4).masks, model.masks)


def test_rigl_grows_by_gradient_as_many_as_the_cosine_says() -> None:
    method = rigl({"w": (8,)}, density=0.5, fraction=1.0, period=1, stop=2)
    model = Model({"w": THETA}, {"w": one(0, 1, 2, 3)})
    # 1/2 · (1 + cos(π/2)) · 4 = 2
    (ask,) = method.asks(model, 1, {}).values()
    assert (ask.kind, dict(ask.args)) == ("top_gradients", {"w": 2})
    grad = {"w": np.array([9.0, 9.0, 0.0, 0.0, 0.1, -0.7, 0.0, 0.6])}
    assert kept(method.act(model, {"grad": grad}, 1).masks) == {"w": [0, 2, 5, 7]}
    assert method.act(model, {"grad": {}}, 1) is model
    assert not method.asks(model, 2, {})  # a fraction of 0


def test_granet_prunes_all_layers_together_and_then_swaps() -> None:
    method = granet({"a": (4,), "b": (4,)}, density=0.25, fraction=1.0, stop=2)
    model = method.start({"a": np.array([5.0, 4.0, 3.0, 2.5]), "b": np.array([1.0, 0.9, 0.8, 2.0])})
    assert masks.density(model.masks) == 1
    # 0.25 + 0.75 · (1 − 1/2)³ = 0.34: 2 of 8, both in a, of which 1/2 · (1 + cos(π/2)) is swapped
    (ask,) = method.asks(model, 1, {}).values()
    assert (ask.kind, dict(ask.args)) == ("top_gradients", {"a": 1})
    assert kept(ask.masks) == {"a": [0, 1], "b": []}
    # a[3] was pruned a moment ago, and may grow
    after = method.act(model, {"grad": {"a": np.array([0.0, 0.0, 0.1, -0.3])}}, 1)
    assert kept(after.masks) == {"a": [0, 3], "b": []}
    assert after.params["a"].tolist() == [5.0, 0, 0, 0]
    # where nobody could say a gradient it is pruned all the same
    assert kept(method.act(model, {"grad": {}}, 1).masks) == {"a": [0, 1], "b": []}


@pytest.mark.parametrize("initial", [1.0, 0.5])
def test_granet_begins_dense_or_at_random(initial: float) -> None:
    model = granet({"w": (8, 8)}, density=0.1, initial=initial).start({"w": np.ones((8, 8))})
    assert masks.kept(model.masks) == 64 * initial
