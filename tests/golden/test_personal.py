"""Golden values of methods with a model for each device, worked by hand: Dis-PFL and SpaFL."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedprune.methods.personal.dis_pfl import dis_pfl
from fedprune.methods.personal.spafl import spafl
from fedprune.training.thresholds import through_thresholds
from fedprune.types import Holder, Model, Now, Params, Sgd, Tensor, Trained


def one(*positions: int) -> Tensor:
    """A mask of four that keeps these."""
    return np.isin(np.arange(4), positions)


def test_dis_pfl_swaps_each_devices_own_weights_by_its_own_gradients() -> None:
    method = dis_pfl({"w": (4,)}, density=0.5, stop=2, fraction=1.0, seed=1)
    # at first all of the two that are kept may go
    assert dict(method.local.reports["grad"].args) == {"w": 2}
    model = method.act(method.start({"w": np.ones(4)}), {}, 0)
    first = model.masks["w"]
    assert first.sum() == 2
    trained = {
        0: Trained(
            {"w": np.array([3.0, 1.0, 0, 0])}, {"w": one(0, 1)}, 1, {}, {"grad": {"w": np.array([0, 0, 0.1, -0.7])}}
        ),
        1: Trained({"w": np.array([0, 2.0, 5.0, 0])}, {"w": one(1, 2)}, 1, {}, {"grad": {}}),
    }
    # 1/2 · (1 + cos(π/2)) · 2 = 1; device 1 said no gradient
    model = method.act(method.join(model._replace(params={"w": np.array([3.0, 1.5, 5.0, 9.0])}), trained), {}, 1)
    assert model.masks["w"].tolist() == [True] * 4

    def held(device: int, round: int) -> tuple[list[float], list[int]]:
        part = method.part(model, Holder(device, "", round))
        return {**model.params, **part.params}["w"].tolist(), np.flatnonzero(part.masks["w"]).tolist()

    # tested as they trained, and then trained from the average
    assert held(0, 1) == ([3.0, 0, 0, 0], [0, 3])
    assert held(1, 1) == ([0, 2.0, 5.0, 0], [1, 2])
    assert held(0, 2) == ([3.0, 1.5, 5.0, 9.0], [0, 3])
    assert held(7, 2) == ([3.0, 1.5, 5.0, 9.0], np.flatnonzero(first).tolist())


def test_spafl_tells_weights_what_the_average_says_of_their_filters() -> None:
    method = spafl({"w": (2, 2), "c": (1, 2, 1, 2)}, pull=0.1)
    params: Params = {
        "w": np.array([[1.0, -3.0], [0.5, 0.1]], np.float32),
        "c": np.ones((1, 2, 1, 2), np.float32),
        "bias": np.array([7.0], np.float32),
    }
    model = method.act(method.start({name: 0 * value for name, value in params.items()}), {}, 0)
    assert method.local.trains == ("threshold/w", "threshold/c")
    average = {"threshold/w": np.array([1.0, 0.4], np.float32), "threshold/c": np.array([0.5], np.float32)}
    model = model._replace(memory={**model.memory, **average})
    model = method.act(method.join(model, {4: Trained(params, model.masks, 1)}), {}, 1)
    # the first filter's weights add up to −2, the second's to 0.6: + 1/2 and − 0.4/2, and of the kernel − 0.5/2
    told = {"w": [[1.5, -2.5], [0.3, -0.1]], "c": [[[[0.75, 0.75]], [[0.75, 0.75]]]], "bias": [7.0]}
    for round, kept in ((1, [[True, True], [False, False]]), (2, [[True, True], [False, False]])):
        part = method.part(model, Holder(4, "", round))
        assert {name: value.tolist() for name, value in part.params.items()} == {
            name: pytest.approx(np.array(value)) for name, value in told.items()
        }
        # means 2 and 0.2 against 1 and 0.4
        assert part.masks["w"].tolist() == kept
        assert part.masks["c"].all()
    other = method.part(model, Holder(5, "", 2))
    assert not other.params
    # the next change is from this average
    again = method.join(model, {4: Trained(method.part(model, Holder(4, "", 2)).params, model.masks, 1)})
    assert np.array_equal(again.memory["own/4/w"], model.memory["own/4/w"])


def test_thresholds_and_weights_of_kept_filters_have_gradients() -> None:
    class Net:
        task = SimpleNamespace(loss=lambda outputs, labels: outputs.sum())

        def __call__(self, params: Any, inputs: torch.Tensor) -> torch.Tensor:
            return inputs @ params["w"].T

    weight = torch.tensor([[1.0, -3.0], [0.5, 0.1]], requires_grad=True)
    threshold = torch.tensor([0.0, 1.0], requires_grad=True)
    loss: Any = through_thresholds(("w",), "threshold/", pull=0.5)
    now = Now(1, 0, Sgd(0.1))
    found = loss(Net(), {"w": weight}, torch.tensor([[1.0, 2.0]]), None, {"threshold/w": threshold}, now)
    # 1 − 6 of the first filter alone, whose mean 2 is above 0, where 0.3 is not above 1
    assert found.item() == pytest.approx(-5 + 0.5 * (1 + math.exp(-1)))
    found.backward()
    assert weight.grad is not None
    assert threshold.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0], [0.0, 0.0]]
    # −(1 − 6) − 0.5 and −(0.5 + 0.2) − 0.5/e
    assert threshold.grad.tolist() == pytest.approx([4.5, -0.7 - 0.5 * math.exp(-1)])


def test_a_layer_of_which_nothing_would_be_left_is_kept() -> None:
    method = spafl({"w": (2, 2)})
    params = {"w": np.full((2, 2), 0.5, np.float32)}
    model = method.act(method.start(params), {}, 0)
    model = model._replace(memory={**model.memory, "threshold/w": np.array([3.0, 3.0], np.float32)})
    after: Model = method.act(method.join(model, {0: Trained(params, model.masks, 1)}), {}, 1)
    assert after.masks["w"].all()
